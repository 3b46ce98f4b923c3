//! What `tidemark check` says of a store before it probes it.

use tidemark_tests::{S3Server, TidemarkProcess};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_prints_what_each_store_is_reached_with_and_no_secret() {
    let server = S3Server::start().expect("it starts");
    for bucket in ["log", "meta"] {
        server.create_bucket(bucket);
    }
    let environment = server.environment();
    let places = ["check", "--log", "s3://log/orders", "--metadata", "s3://meta"];
    let printed = TidemarkProcess::output(&places, &environment).await.expect("it passes");
    let json = TidemarkProcess::output(&[&places[..], &["--json"]].concat(), &environment).await.expect("it passes");
    let endpoint = format!("{} (variable AWS_ENDPOINT_URL)", server.endpoint());
    for (name, value) in [
        ("provider", "S3"),
        ("bucket", "log"),
        ("prefix", "orders"),
        ("endpoint", &endpoint),
        ("region", "us-east-1 (variable AWS_REGION)"),
        ("credentials", "variable AWS_ACCESS_KEY_ID"),
    ] {
        assert!(printed.contains(&format!("  {name:<11} {value}\n")), "{name}: {printed}");
    }
    let first: serde_json::Value =
        serde_json::Deserializer::from_str(&json).into_iter().next().expect("a report").expect("JSON");
    assert_eq!(first["configuration"]["credentials"], "variable AWS_ACCESS_KEY_ID");
    assert_eq!(first["configuration"]["endpoint"]["value"], server.endpoint());
    for text in [printed, json] {
        assert!(!text.contains(&environment["AWS_SECRET_ACCESS_KEY"]), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_arn_of_an_access_point_is_refused_with_what_to_write() {
    let arn = "s3://arn:aws:s3:us-west-2:123456789012:accesspoint/orders";
    let words = ["check", "--log", arn, "--metadata", "s3://meta"];
    let refusal = TidemarkProcess::output(&words, &[].into()).await.expect_err("it is no URL").to_string();
    assert!(refusal.contains("an access point is named by its alias"), "{refusal}");
}
