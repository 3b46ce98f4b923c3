//! The recipes of `docs/sql.md`: pyiceberg, DuckDB and Spark find the archive through the catalog that `tidemark serve` has, and by its path,
//! on an S3 server, and count, filter and add up to what search says. The recipes are those of the page, with the addresses of the test.

use std::{collections::BTreeMap, path::Path, process::Stdio, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;
use tidemark_store::StoreSecond;
use tidemark_tests::{ArchivedLog, TidemarkProcess, optional_script, root};
use tokio::{io::AsyncWriteExt as _, process::Command};

/// The page.
const PAGE: &str = include_str!("../../../docs/sql.md");
/// The token of search.
const TOKEN: &str = "a-token-of-the-search-service";
/// How long a program may take to read the archive.
const PATIENCE: Duration = Duration::from_mins(10);

/// An archived log behind search, and a home for the programs that read it.
struct ReadableLog {
    log: ArchivedLog,
    search: TidemarkProcess,
    client: reqwest::Client,
    home: TempDir,
    /// The archive's end: search is asked for what is below it.
    end: String,
    /// The table as the catalog has it.
    table: Value,
}

/// What search says of sealed operations before the archive's end.
struct SearchFigures {
    outcomes: BTreeMap<String, u64>,
    bundles_per_repo: BTreeMap<String, u64>,
    operations_of_day: u64,
    teams: BTreeMap<String, u64>,
    /// The day, and the next one.
    days: [String; 2],
}

impl ReadableLog {
    async fn new() -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let token = home.path().join("token");
        std::fs::write(&token, TOKEN).expect("the token is written");
        let log = ArchivedLog::after_a_restore().await.expect("it is archived");
        let serving = ["serve", "--auth-token-file", token.to_str().expect("a path of text")];
        let search = TidemarkProcess::serving(&serving, &log.environment).await.expect("search starts");
        let client = reqwest::Client::new();
        let (end, table) = (String::new(), Value::Null);
        let mut place = Self { log, search, client, home, end, table };
        place.search.until("search is ready", async || place.get("/readyz", &[]).await).await;
        let table = place.get("/iceberg/v1/namespaces/archive/tables/operations", &[]).await.expect("a table");
        let end = table["metadata"]["properties"]["tidemark.end"].as_str().and_then(|end| end.parse().ok());
        place.end = StoreSecond::from_unix(end.expect("the archive has an end")).to_string();
        place.table = table;
        place
    }

    /// What search answers with 200.
    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, String> {
        let request = self.client.get(format!("{}{path}", self.search.url())).bearer_auth(TOKEN).query(query);
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = answer.text().await.map_err(|error| error.to_string())?;
        if status != 200 {
            return Err(format!("{status}: {body}"));
        }
        serde_json::from_str(&body).map_err(|error| error.to_string())
    }

    /// What search says of sealed operations before the archive's end.
    async fn search(&self, more: &[(&str, &str)]) -> Value {
        let common = [("size", "0"), ("sealed", "true"), ("to", self.end.as_str())];
        // A later bound replaces the archive's end.
        let common = common.into_iter().filter(|(name, _)| more.iter().all(|(other, _)| other != name));
        self.get("/v1/search", &common.chain(more.iter().copied()).collect::<Vec<_>>()).await.expect("it is answered")
    }

    /// How often each value of a facet occurs.
    async fn counts(&self, facet: &str, more: &[(&str, &str)]) -> BTreeMap<String, u64> {
        let answer = self.search(&[&[("facets", facet)], more].concat()).await;
        let facets = answer["facets"][facet].as_array().unwrap_or_else(|| panic!("no facet: {answer}"));
        let count = |facet: &Value| {
            (facet["value"].as_str().expect("text").to_owned(), facet["count"].as_u64().expect("a count"))
        };
        facets.iter().map(count).collect()
    }

    async fn total(&self, more: &[(&str, &str)]) -> u64 {
        self.search(more).await["total"].as_u64().expect("a total")
    }

    /// How many operations name each team.
    async fn teams(&self) -> BTreeMap<String, u64> {
        let mut teams = BTreeMap::new();
        for team in (0..5).map(|number| format!("team-{number}")) {
            let query = format!("payload.attributes.team:\"{team}\"");
            teams.insert(team, self.total(&[("q", &query)]).await);
        }
        teams
    }

    async fn figures(&self) -> SearchFigures {
        let day = self.log.last_round;
        let date = |second: StoreSecond| second.to_string()[..10].to_owned();
        let days = [date(day), date(day.after(Duration::from_hours(24)))];
        let figures = SearchFigures {
            outcomes: self.counts("outcome", &[]).await,
            bundles_per_repo: self.counts("repo", &[("kind", "bundle"), ("outcome", "committed")]).await,
            operations_of_day: self.total(&[("from", &days[0]), ("to", &days[1])]).await,
            teams: BTreeMap::new(),
            days,
        };
        let figures = SearchFigures { teams: self.teams().await, ..figures };
        let all = ArchivedLog::RESTORED_ROUNDS * ArchivedLog::ROUND_OPERATIONS;
        assert_eq!(self.total(&[]).await, all, "search has all that was archived");
        assert_eq!(figures.outcomes.values().sum::<u64>(), all, "{:?}", figures.outcomes);
        let named = ["committed", "aborted", "malformed"];
        assert!(named.iter().all(|name| figures.outcomes.contains_key(*name)), "{:?}", figures.outcomes);
        assert_eq!(figures.bundles_per_repo.len(), 3);
        assert!(figures.teams.values().all(|count| *count > 0), "{:?}", figures.teams);
        assert!((1..all).contains(&figures.operations_of_day), "{}", figures.operations_of_day);
        figures
    }

    fn of_bucket(&self, name: &str) -> &str {
        &self.log.environment[name]
    }

    /// What stands on the page, and what it is here.
    fn replacements(&self, days: &[String; 2]) -> [(&'static str, String); 12] {
        let endpoint = self.log.server.endpoint();
        let location = self.table["metadata"]["location"].as_str().expect("a location").to_owned();
        let (index, log) = location.rsplit_once("/archive/").expect("a folder of the index");
        let (index, log) = (index.to_owned(), log.to_owned());
        let [today, tomorrow] = days.clone();
        [
            ("http://127.0.0.1:7281", self.search.url().to_owned()),
            ("127.0.0.1:9000", endpoint.trim_start_matches("http://").to_owned()),
            ("s3://bucket/index/archive/LOG-ID", location),
            ("s3://bucket/index", index),
            ("LOG-ID", log),
            ("KEY_ID 'KEY'", format!("KEY_ID '{}'", self.of_bucket("AWS_ACCESS_KEY_ID"))),
            ("SECRET 'SECRET'", format!("SECRET '{}'", self.of_bucket("AWS_SECRET_ACCESS_KEY"))),
            ("2026-11-29", today),
            ("2026-11-30", tomorrow),
            ("TOKEN 'TOKEN'", format!("TOKEN '{TOKEN}'")),
            ("\"token\": \"TOKEN\"", format!("\"token\": \"{TOKEN}\"")),
            ("wal.token=TOKEN", format!("wal.token={TOKEN}")),
        ]
    }

    /// The blocks of this language on the page, with the addresses and the days of the test.
    fn recipes(&self, language: &str, days: &[String; 2]) -> Vec<String> {
        let fence = format!("```{language}\n");
        let blocks = PAGE.split(&fence).skip(1);
        let own = |block: &str| {
            let block = block.split("```").next().unwrap_or_default().to_owned();
            self.replacements(days).iter().fold(block, |block, (text, by)| block.replace(text, by))
        };
        blocks.map(own).collect()
    }

    /// Runs a program that finds the bucket as AWS's tools do, and gives what it printed.
    async fn run(&self, command: &mut Command, input: &str) -> String {
        command.env("HOME", self.home.path()).kill_on_drop(true);
        for name in ["NO_PROXY", "no_proxy"] {
            command.env(name, "127.0.0.1");
        }
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            command.env(name, self.of_bucket(name));
        }
        command.env("AWS_REGION", "us-east-1");
        command.env("PYICEBERG_CATALOG__WAL__S3__ENDPOINT", self.log.server.endpoint());
        command.env("PYICEBERG_CATALOG__WAL__S3__REGION", "us-east-1");
        let mut running =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut stdin = running.stdin.take().expect("its input is piped");
        stdin.write_all(input.as_bytes()).await.expect("it reads");
        drop(stdin);
        let ended = tokio::time::timeout(PATIENCE, running.wait_with_output()).await;
        let ended = ended.expect("it ends").expect("it runs");
        assert!(ended.status.success(), "{input}\n{}", String::from_utf8_lossy(&ended.stderr));
        String::from_utf8(ended.stdout).expect("it prints text")
    }

    /// The figures that a block of Python prints at its end.
    async fn python_figures(&self, readers: &Path, block: &str) -> Value {
        let more = "\nimport json\nprint(json.dumps([outcomes, bundles_per_repo, operations_of_day]))\n";
        let said = self.run(Command::new(readers.join("bin/python")).arg("-"), &format!("{block}{more}")).await;
        serde_json::from_str(said.lines().last().unwrap_or_default()).expect("it says JSON")
    }

    /// The rows of each statement of a block of DuckDB's SQL that has some.
    async fn duckdb_rows(&self, readers: &Path, block: &str) -> Vec<Value> {
        let runner = root().join("tests/tools/foreign-readers/run_sql.py");
        let said = self.run(Command::new(readers.join("bin/python")).arg(runner), block).await;
        said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
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
    let config = format!("{}/iceberg/v1/config", place.search.url());
    let refused = place.client.get(&config).send().await.expect("it answers");
    assert_eq!(refused.status(), 401, "the catalog asks for the token");
    let versions = place.table["metadata"]["snapshots"].as_array().map(Vec::len);
    assert_eq!(versions, usize::try_from(ArchivedLog::RESTORED_ROUNDS).ok(), "a version a snapshot");
    let figures = place.figures().await;
    let SearchFigures { outcomes, bundles_per_repo, operations_of_day, teams, days } = &figures;

    let python = place.recipes("python", days);
    let [through_catalog, by_path] = python.as_slice() else { panic!("{} blocks of Python", python.len()) };
    let expected = json!([outcomes, bundles_per_repo, operations_of_day]);
    assert_eq!(place.python_figures(&readers, by_path).await, expected, "pyiceberg, by path");
    assert_eq!(place.python_figures(&readers, through_catalog).await, expected, "pyiceberg");
    let asks = "\noutcomes, bundles_per_repo, operations_of_day = catalog.list_tables('archive'), \
                catalog.table_exists('archive.operations'), catalog.table_exists('archive.other')\n";
    let found = place.python_figures(&readers, &format!("{through_catalog}{asks}")).await;
    assert_eq!(found, json!([[["archive", "operations"]], true, false]), "pyiceberg");

    let sql = place.recipes("sql", days);
    let [through_catalog, by_path] = sql.as_slice() else { panic!("{} blocks of SQL", sql.len()) };
    for (block, way) in [(by_path, "by path"), (through_catalog, "through the catalog")] {
        let rows = place.duckdb_rows(&readers, block).await;
        let begin = rows.iter().position(|rows| rows[0][0] == "aborted").unwrap_or_else(|| panic!("{way}: {rows:?}"));
        let [by_outcome, by_repo, in_day, more @ ..] = &rows[begin..] else { panic!("{way}: {rows:?}") };
        assert_eq!((&pairs(by_outcome), &in_day[0][0]), (outcomes, &json!(operations_of_day)), "DuckDB, {way}");
        assert_eq!(&pairs(by_repo), bundles_per_repo, "DuckDB, {way}");
        if way == "by path" {
            continue;
        }
        let [by_team, slowest] = more else { panic!("{rows:?}") };
        let mut found = pairs(by_team);
        found.remove("none");
        assert_eq!(&found, teams, "DuckDB");
        assert_eq!(slowest[0][0], 1, "the descriptors come a second after their entries");
    }
    assert!(place.search.stop().await.expect("it ends").success());
}

/// It fetches 900 MiB, so that `make long` runs it alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "fetches Spark"]
async fn spark_comes_to_what_search_says() {
    let jars = tokio::task::spawn_blocking(|| optional_script("spark.sh", &[])).await;
    let Some(jars) = jars.expect("no panic").expect("Spark is fetched") else {
        eprintln!("SKIPPED: no Java, no Maven or no packages for it, so Spark does not run");
        return;
    };
    let place = ReadableLog::new().await;
    let SearchFigures { outcomes, bundles_per_repo, operations_of_day, days, .. } = place.figures().await;
    let stand_in = root().join("tests/tools/spark");
    let path = format!("{}:{}", stand_in.display(), std::env::var("PATH").unwrap_or_default());
    let recipes = place.recipes("sh", &days);
    assert_eq!(recipes.len(), 2, "through the catalog, and by path");
    for recipe in recipes {
        let mut command = Command::new("bash");
        command.args(["-euc", &recipe]).env("PATH", &path).env("SPARK_JARS", &jars);
        let said = place.run(&mut command, "").await;
        let columns = said.lines().filter_map(|line| line.split_once('\t'));
        let found: BTreeMap<_, u64> = columns.filter_map(|(name, count)| Some((name, count.parse().ok()?))).collect();
        let expected = outcomes.iter().chain(&bundles_per_repo).map(|(name, count)| (name.as_str(), *count)).collect();
        assert_eq!(found, expected, "{recipe}\n{said}");
        let last = said.lines().last().and_then(|line| line.parse().ok());
        assert_eq!(last, Some(operations_of_day), "{recipe}\n{said}");
    }
    assert!(place.search.stop().await.expect("it ends").success());
}
