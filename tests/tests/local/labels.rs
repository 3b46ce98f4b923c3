//! Labels of Datamon's own clients, on an S3 server whose bucket keeps versions, and on one whose bucket keeps none.

use std::time::Duration;

use tidemark_store::{Store, StoreSecond};
use tidemark_tests::{
    S3Server,
    faults::{FaultRule, InjectedFault, StoreOperation},
};
use tidemark_wal::{Evidence, Log, LogParameters, LogReader, Outcome, ParameterSchedule, Token};

const LABEL: &str = "labels/r/my label/label.yaml";
const OPENED: StoreSecond = StoreSecond::from_unix(1_700_000_000);

type LabelMove = (Outcome, Option<Evidence>, Option<String>);

fn server() -> (S3Server, Log) {
    let server = S3Server::with_bucket("log").expect("it starts");
    server.create_bucket("meta");
    let environment = server.environment().into_iter().collect();
    let open = |url: &str| Store::open_with(&url.parse().expect("a URL"), &environment).expect("it opens");
    let log = Log::over(open("s3://log/wal"), vec![open("s3://meta/v")]);
    (server, log)
}

/// An entry, and the value that its client writes two seconds later, unless it crashes.
fn move_label(server: &S3Server, seconds: u64, value: Option<&str>) -> Token {
    let at = |seconds| OPENED.after(Duration::from_secs(seconds));
    let token = Token::from_parts(at(seconds), [7; 16]);
    server.insert_at("log", &format!("wal/{token}"), LABEL, at(seconds));
    if let Some(value) = value {
        server.insert_at("meta", &format!("v/{LABEL}"), format!("id: {value}\n"), at(seconds + 2));
    }
    token
}

async fn label_moves(log: &Log, tokens: &[Token]) -> Vec<LabelMove> {
    let schedule = ParameterSchedule::constant(LogParameters::with_expiry(Duration::from_secs(20)));
    let (reader, mut moves) = (LogReader::new(log), Vec::new());
    for token in tokens {
        let entry = reader.lookup(*token, &schedule).await.expect("it is read").expect("it is there");
        let [op] = &entry.ops[..] else { panic!("{entry:?}") };
        moves.push((
            op.decision.outcome,
            op.decision.evidence,
            op.descriptor.as_ref().and_then(|label| label.id.clone()),
        ));
    }
    moves
}

fn moved(value: &str) -> LabelMove {
    (Outcome::Committed, Some(Evidence::Timed), Some(value.to_owned()))
}

#[tokio::test]
async fn each_move_of_a_label_has_its_version() {
    let (server, log) = server();
    server.keep_versions("meta");
    // Pages of one version, too.
    for limit in [1000, 1] {
        server.limit_pages(limit);
        let start = if limit == 1 { 5000 } else { 0 };
        let moves = [(0, Some("b1")), (3, None), (6, Some("b3")), (200, None), (900, Some("b5"))];
        let tokens: Vec<Token> =
            moves.iter().map(|(seconds, value)| move_label(&server, start + seconds, *value)).collect();
        let found = label_moves(&log, &tokens).await;
        let aborted = (Outcome::Aborted, None, None);
        assert_eq!(found, [moved("b1"), aborted.clone(), moved("b3"), aborted, moved("b5")]);
    }
}

#[tokio::test]
async fn without_versions_an_earlier_move_is_unknown() {
    let (server, log) = server();
    let tokens = [move_label(&server, 0, Some("b1")), move_label(&server, 3, Some("b2"))];
    let unknown = (Outcome::Unknown, Some(Evidence::Inferred), None);
    assert_eq!(label_moves(&log, &tokens).await, [unknown, moved("b2")]);
}

#[tokio::test]
async fn a_refusal_to_list_versions_that_passes_decides_nothing() {
    let (server, log) = server();
    server.keep_versions("meta");
    let tokens = [move_label(&server, 0, Some("b1")), move_label(&server, 3, Some("b2"))];
    server.inject(FaultRule::always(InjectedFault::Forbidden).on(StoreOperation::Other).times(1));
    assert_eq!(label_moves(&log, &tokens).await, [moved("b1"), moved("b2")]);
    assert_eq!(server.faults_seen(), 1);
}

#[tokio::test]
async fn moves_of_a_label_cost_a_few_requests_each_however_many_are_in_one_window() {
    let mut of_each = Vec::new();
    for count in [10, 60] {
        let (server, log) = server();
        server.keep_versions("meta");
        let tokens: Vec<Token> = (0..count).map(|second| move_label(&server, second, Some("b"))).collect();
        server.reset_counts();
        let found = label_moves(&log, &tokens).await;
        assert!(found.iter().all(|found| *found == moved("b")), "{found:?}");
        of_each.push(server.requests() / count);
    }
    assert!(of_each.iter().all(|requests| *requests <= 7), "requests for each move: {of_each:?}");
}
