//! Every example is what it says, by the schema and its rules.

use serde_json::Value;
use tidemark_tests::cluster::ApiServer;

use super::{
    helm::{objects, root, yaml_files},
    server::{accepts, prepare},
};

/// Refused when it is applied; the other broken ones are well-formed, and the store refuses them.
const REFUSED: &str = "plain-http.yaml";

fn examples() -> Vec<(String, String)> {
    let folder = root().join("examples");
    let mut files = yaml_files(&folder);
    files.extend(yaml_files(&folder.join("broken")));
    files.sort();
    assert!(files.len() >= 11, "{files:?}");
    files
        .into_iter()
        .map(|file| (file.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(file).unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_accepts_every_example_but_the_one_that_it_shall_refuse() {
    let server = ApiServer::start().await.unwrap();
    prepare(&server).await;
    for (name, yaml) in examples() {
        let accepted = accepts(&server, &yaml).await;
        if name == REFUSED {
            let error = accepted.expect_err(&name).to_string();
            assert!(error.contains("allowHTTP"), "{error}");
        } else {
            accepted.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}

#[test]
fn every_example_says_what_it_is_for() {
    for (name, yaml) in examples() {
        assert!(yaml.starts_with("# "), "{name} begins with no comment");
        let wals = objects(&yaml).into_iter().filter(|object| object["kind"] == "WAL").count();
        assert_eq!(wals, 1, "{name} shows one WAL");
    }
}

#[test]
fn the_demo_is_restricted_and_runs_the_image_that_is_built_here() {
    let demo = std::fs::read_to_string(root().join("examples/demo.yaml")).unwrap();
    let demo = objects(&demo);
    let images: Vec<&Value> =
        demo.iter().map(|object| &object["spec"]["template"]["spec"]["containers"][0]["image"]).collect();
    assert!(images.iter().any(|image| **image == "tidemark.dev/tidemark-demo:dev"), "{images:?}");
    let namespace = demo.iter().find(|object| object["kind"] == "Namespace").unwrap();
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
}
