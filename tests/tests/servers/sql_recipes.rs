//! The recipes of `docs/sql.md`: pyiceberg and DuckDB find the archive through the catalog that `tidemark serve` has, on an S3 server, and
//! count, filter and add up to what search says.

use std::{collections::BTreeMap, path::Path, process::Stdio, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;
use tidemark_store::StoreSecond;
use tidemark_tests::{ArchivedLog, TidemarkProcess, optional_script, root};
use tokio::io::AsyncWriteExt as _;

/// The token of search.
const TOKEN: &str = "a-token-of-the-search-service";
/// How many snapshots extend the archive.
const ROUNDS: u64 = 5;

/// An archived log, and a home for the programs that read it.
struct ReadableLog {
    log: ArchivedLog,
    home: TempDir,
}

impl ReadableLog {
    async fn new() -> Self {
        let home = tempfile::tempdir().expect("a folder");
        std::fs::write(home.path().join("token"), TOKEN).expect("the token is written");
        Self { log: ArchivedLog::after_rounds(ROUNDS).await.expect("it is archived"), home }
    }

    async fn serve(&self) -> TidemarkProcess {
        let token = self.home.path().join("token").display().to_string();
        let serving = ["serve", "--auth-token-file", &token];
        TidemarkProcess::serving(&serving, &self.log.environment).await.expect("search starts")
    }

    /// The variables by which Python's readers find the bucket.
    fn reader_environment(&self) -> Vec<(String, String)> {
        let of_bucket = |name: &str| self.log.environment[name].clone();
        let catalog = |name: &str, value: String| (format!("PYICEBERG_CATALOG__WAL__S3__{name}"), value);
        vec![
            ("HOME".to_owned(), self.home.path().display().to_string()),
            ("NO_PROXY".to_owned(), "127.0.0.1".to_owned()),
            ("no_proxy".to_owned(), "127.0.0.1".to_owned()),
            catalog("ENDPOINT", self.log.server.endpoint()),
            catalog("ACCESS_KEY_ID", of_bucket("AWS_ACCESS_KEY_ID")),
            catalog("SECRET_ACCESS_KEY", of_bucket("AWS_SECRET_ACCESS_KEY")),
            catalog("REGION", "us-east-1".to_owned()),
        ]
    }

    /// Runs Python in an environment of its readers.
    async fn python(&self, readers: &Path, arguments: &[&str], input: &str) -> String {
        let mut command = tokio::process::Command::new(readers.join("bin/python"));
        command.args(arguments).envs(self.reader_environment()).kill_on_drop(true);
        let mut running =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut stdin = running.stdin.take().expect("its input is piped");
        stdin.write_all(input.as_bytes()).await.expect("it reads");
        drop(stdin);
        let ended = tokio::time::timeout(Duration::from_mins(5), running.wait_with_output()).await;
        let ended = ended.expect("it ends").expect("it runs");
        assert!(ended.status.success(), "{input}\n{}", String::from_utf8_lossy(&ended.stderr));
        String::from_utf8(ended.stdout).expect("it prints text")
    }
}

/// The first block of this language on the page, with the addresses and the day of the test.
fn recipe(language: &str, replaced: &[(&str, &str)]) -> String {
    let page = include_str!("../../../docs/sql.md");
    let block = page.split(&format!("```{language}\n")).nth(1).and_then(|rest| rest.split("```").next());
    let mut recipe = block.expect("the page has the recipe").to_owned();
    for (text, by) in replaced {
        assert!(recipe.contains(text), "\"{text}\" is not in the recipe of {language}");
        recipe = recipe.replace(text, by);
    }
    recipe
}

/// What search says of sealed operations before the archive's end.
struct SearchFigures {
    client: reqwest::Client,
    url: String,
    end: String,
}

impl SearchFigures {
    async fn ask(&self, more: &[(&str, &str)]) -> Value {
        let url = format!("{}/v1/search", self.url);
        let common = [("size", "0"), ("sealed", "true"), ("to", self.end.as_str())];
        // A later bound replaces the archive's end.
        let common = common.into_iter().filter(|(name, _)| more.iter().all(|(other, _)| other != name));
        let request =
            self.client.get(url).bearer_auth(TOKEN).query(&common.chain(more.iter().copied()).collect::<Vec<_>>());
        let answer = request.send().await.expect("it answers").error_for_status().expect("it is answered");
        answer.json().await.expect("it is JSON")
    }

    /// How often each value of a facet occurs.
    async fn counts(&self, facet: &str, more: &[(&str, &str)]) -> BTreeMap<String, u64> {
        let answer = self.ask(&[&[("facets", facet)], more].concat()).await;
        let facets = answer["facets"][facet].as_array().expect("a facet");
        let count = |facet: &Value| {
            (facet["value"].as_str().expect("text").to_owned(), facet["count"].as_u64().expect("a count"))
        };
        facets.iter().map(count).collect()
    }

    async fn total(&self, more: &[(&str, &str)]) -> u64 {
        self.ask(more).await["total"].as_u64().expect("a total")
    }
}

/// Pairs of a name and a number, as rows.
fn pairs(rows: &Value) -> BTreeMap<String, u64> {
    let pair = |row: &Value| (row[0].as_str().unwrap_or("none").to_owned(), row[1].as_u64().expect("a number"));
    rows.as_array().expect("rows").iter().map(pair).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_recipes_come_to_what_search_says() {
    let readers = tokio::task::spawn_blocking(|| optional_script("python.sh", &["foreign-readers"])).await;
    let Some(readers) = readers.expect("no panic").expect("the readers are installed") else {
        eprintln!("SKIPPED: no Python or no packages for it, so the recipes do not run");
        return;
    };
    let place = ReadableLog::new().await;
    let (log, search) = (&place.log, place.serve().await);
    let client = reqwest::Client::new();
    let config = format!("{}/iceberg/v1/config", search.url());
    assert_eq!(client.get(&config).send().await.expect("it answers").status(), 401, "the catalog asks for the token");
    search
        .until("the catalog has the table", async || {
            let table = format!("{}/iceberg/v1/namespaces/archive/tables/operations", search.url());
            let answer = client.get(table).bearer_auth(TOKEN).send().await.map_err(|error| error.to_string())?;
            if answer.status() == 200 { Ok(()) } else { Err(answer.status().to_string()) }
        })
        .await;
    let table =
        client.get(format!("{}/iceberg/v1/namespaces/archive/tables/operations", search.url())).bearer_auth(TOKEN);
    let loaded: Value = table.send().await.expect("it answers").json().await.expect("it is JSON");
    let properties = &loaded["metadata"]["properties"];
    let end = properties["tidemark.end"].as_str().and_then(|end| end.parse().ok()).map(StoreSecond::from_unix);
    let end = end.expect("the archive has an end");
    let figures = SearchFigures { client, url: search.url().to_owned(), end: end.to_string() };
    search
        .until("search has it all", async || match figures.total(&[]).await {
            total if total >= ROUNDS * ArchivedLog::ROUND_OPERATIONS => Ok(()),
            total => Err(total.to_string()),
        })
        .await;
    assert_eq!(loaded["metadata"]["snapshots"].as_array().map(Vec::len), Some(ROUNDS as usize), "a version a snapshot");

    let outcomes = figures.counts("outcome", &[]).await;
    assert!(
        ["committed", "aborted", "malformed"].iter().all(|outcome| outcomes.contains_key(*outcome)),
        "{outcomes:?}"
    );
    let of_bundles = [("kind", "bundle"), ("outcome", "committed")];
    let per_repo = figures.counts("repo", &of_bundles).await;
    assert!(per_repo.len() == 3, "{per_repo:?}");
    // The day of the last round, and the next one.
    let day = log.last_round();
    let date = |second: StoreSecond| second.to_string()[..10].to_owned();
    let (today, tomorrow) = (date(day), date(day.after(Duration::from_hours(24))));
    let of_day = figures.total(&[("from", &today), ("to", &tomorrow)]).await;
    assert!(of_day > 0);

    let address = ("http://127.0.0.1:7281", search.url());
    let dates = [("2026-11-29", today.as_str()), ("2026-11-30", tomorrow.as_str())];
    let python = recipe("python", &[&[address, ("TOKEN", TOKEN)], &dates[..]].concat());
    let more = "import json\nprint(json.dumps([outcomes, bundles_per_repo, operations_of_day, catalog.list_tables('archive'), \
                catalog.table_exists('archive.operations'), catalog.table_exists('archive.other')]))\n";
    let said = place.python(&readers, &["-"], &format!("{python}\n{more}")).await;
    let found: Value = serde_json::from_str(said.lines().last().unwrap_or_default()).expect("it says JSON");
    let expected = json!([outcomes, per_repo, of_day, [["archive", "operations"]], true, false]);
    assert_eq!(found, expected, "pyiceberg");

    let endpoint = log.server.endpoint();
    let bucket = [
        ("KEY_ID 'KEY'", format!("KEY_ID '{}'", log.environment["AWS_ACCESS_KEY_ID"])),
        ("SECRET 'SECRET'", format!("SECRET '{}'", log.environment["AWS_SECRET_ACCESS_KEY"])),
        ("127.0.0.1:9000", endpoint.trim_start_matches("http://").to_owned()),
    ];
    let bucket = bucket.each_ref().map(|(text, by)| (*text, by.as_str()));
    let sql = recipe("sql", &[&bucket[..], &[address, ("'TOKEN'", &format!("'{TOKEN}'"))], &dates].concat());
    let runner = root().join("tests/tools/foreign-readers/run_sql.py").display().to_string();
    let said = place.python(&readers, &[&runner], &sql).await;
    let rows: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let [.., by_outcome, by_repo, in_day, by_team, slowest] = rows.as_slice() else { panic!("{said}") };
    assert_eq!(pairs(by_outcome), outcomes, "DuckDB");
    assert_eq!(pairs(by_repo), per_repo, "DuckDB");
    assert_eq!(in_day[0][0], of_day, "DuckDB");
    let teams = figures.counts("payload.attributes.team", &[("kind", "entry")]).await;
    let mut found = pairs(by_team);
    found.remove("none");
    assert_eq!(found, teams, "DuckDB");
    assert_eq!(slowest[0][0], 1, "the descriptors come a second after their entries");
    assert!(search.stop().await.expect("it ends").success());
}
