//! The recipes of `docs/sql.md`: pyiceberg, DuckDB and Spark find the archive through the catalog of `tidemark serve`, and by its path, and
//! count, filter and add up to what search says. What runs are the blocks of the page, with the addresses, secrets and days of the test.
//!
//! The table is one of five snapshots, of an index that was compacted twice and restored.

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
/// The store's clock is ahead of the machine's by less than so many milliseconds.
const AHEAD_MS: i64 = 30 * 24 * 3_600_000;
/// How long a program may take to read the archive.
const READER_TIMEOUT: Duration = Duration::from_mins(10);
/// What follows a block of Python: the last line that it prints is JSON.
const PRINT_FIGURES: &str = "\nimport json\nprint(json.dumps([outcomes, bundles_per_repo, operations_of_day]))\n";
/// What follows the block of Python that goes through the catalog.
const PRINT_CATALOG: &str = r#"
generations = table.scan(selected_fields=("generation",)).to_pandas()["generation"].value_counts().to_dict()
print(json.dumps({
    "tables": catalog.list_tables("archive"),
    "exist": [catalog.table_exists(f"archive.{name}") for name in ("operations", "other")],
    "versions": [table.scan(snapshot_id=snapshot.snapshot_id).count() for snapshot in table.snapshots()],
    "generations": generations,
    "latest": table.metadata_location,
}))
"#;

/// An archived log behind search, and a home for the programs that read it.
struct RecipePlace {
    log: ArchivedLog,
    search: TidemarkProcess,
    client: reqwest::Client,
    home: TempDir,
    /// The table as the catalog has it.
    table: Value,
    /// The archive's end: search is asked for what is below it.
    end: String,
}

/// What search says of what the archive has.
struct SearchFigures {
    outcomes: BTreeMap<String, u64>,
    /// Committed bundles of each repository, and their files.
    bundles: BTreeMap<String, (u64, u64)>,
    operations_of_day: u64,
    /// The day, and the next one.
    days: [String; 2],
}

impl SearchFigures {
    fn bundles_per_repo(&self) -> BTreeMap<String, u64> {
        self.bundles.iter().map(|(repo, (bundles, _))| (repo.clone(), *bundles)).collect()
    }

    /// Compares the rows of the first statements of a block of DuckDB's SQL that are no settings and secrets, and gives those of the others.
    fn compare_duckdb(&self, rows: &[Value], way: &str) -> Vec<Value> {
        let begin = rows.iter().position(|rows| rows[0][0] == "aborted").unwrap_or_else(|| panic!("{rows:?}"));
        let [by_outcome, by_repo, in_day, more @ ..] = &rows[begin..] else { panic!("{rows:?}") };
        assert_eq!(pairs(by_outcome), self.outcomes, "DuckDB, {way}");
        let bundles = self.bundles.iter().map(|(repo, (bundles, files))| json!([repo, bundles, files]));
        assert_eq!(*by_repo, bundles.collect::<Value>(), "DuckDB, {way}");
        assert_eq!(*in_day, json!([[self.operations_of_day]]), "DuckDB, {way}");
        more.to_vec()
    }

    /// The figures that each block of Python ends with.
    fn of_python(&self) -> Value {
        json!([self.outcomes, self.bundles_per_repo(), self.operations_of_day])
    }
}

impl RecipePlace {
    async fn new() -> Self {
        let log = ArchivedLog::after_a_restore().await.expect("it is archived");
        let home = tempfile::tempdir().expect("a folder");
        let token = home.path().join("token");
        std::fs::write(&token, TOKEN).expect("the token is written");
        let serving = ["serve", "--auth-token-file", token.to_str().expect("a path of text")];
        let search = TidemarkProcess::serving(&serving, &log.environment).await.expect("search starts");
        let (client, table, end) = (reqwest::Client::new(), Value::Null, String::new());
        let place = Self { log, search, client, home, table, end };
        place.search.until("search is ready", async || place.get("/readyz", &[]).await).await;
        let table = place.get("/iceberg/v1/namespaces/archive/tables/operations", &[]).await.expect("a table");
        let end = table["metadata"]["properties"]["tidemark.end"].as_str().and_then(|end| end.parse().ok());
        let end = StoreSecond::from_unix(end.expect("the archive has an end")).to_string();
        Self { table, end, ..place }
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
        // `/readyz` answers with text.
        Ok(serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    /// What search says of sealed operations before the archive's end, or within other bounds.
    async fn search(&self, more: &[(&str, &str)]) -> Value {
        let common = [("size", "0"), ("sealed", "true"), ("to", self.end.as_str())];
        let common = common.into_iter().filter(|(name, _)| more.iter().all(|(other, _)| other != name));
        self.get("/v1/search", &common.chain(more.iter().copied()).collect::<Vec<_>>()).await.expect("it is answered")
    }

    async fn total(&self, more: &[(&str, &str)]) -> u64 {
        self.search(more).await["total"].as_u64().expect("a total")
    }

    /// How often each value of a facet occurs.
    async fn counts(&self, facet: &str, more: &[(&str, &str)]) -> BTreeMap<String, u64> {
        let answer = self.search(&[&[("facets", facet)], more].concat()).await;
        let counts = answer["facets"][facet].as_array().unwrap_or_else(|| panic!("no facet \"{facet}\": {answer}"));
        let count =
            |one: &Value| (one["value"].as_str().expect("text").to_owned(), one["count"].as_u64().expect("a count"));
        counts.iter().map(count).collect()
    }

    async fn figures(&self) -> SearchFigures {
        let day = self.log.last_round();
        let date = |second: StoreSecond| second.to_string()[..10].to_owned();
        let days = [date(day), date(day.after(Duration::from_hours(24)))];
        let committed = [("kind", "bundle"), ("outcome", "committed")];
        let mut bundles = BTreeMap::new();
        let found = self.search(&[&committed[..], &[("size", "100")]].concat()).await;
        for hit in found["hits"].as_array().expect("hits") {
            let token = hit["token"].as_str().expect("a token");
            let entry = self.get(&format!("/v1/entries/{token}"), &[]).await.expect("an entry");
            let operation = &entry["ops"][0];
            let repo = operation["repo"].as_str().expect("a repository").to_owned();
            let (count, files): &mut (u64, u64) = bundles.entry(repo).or_default();
            *count += 1;
            *files += operation["descriptor"]["count"].as_u64().expect("a number of files");
        }
        let figures = SearchFigures {
            outcomes: self.counts("outcome", &[]).await,
            bundles,
            operations_of_day: self.total(&[("from", &days[0]), ("to", &days[1])]).await,
            days,
        };
        let all = ArchivedLog::RESTORED_ROUNDS * ArchivedLog::ROUND_OPERATIONS;
        assert_eq!(self.total(&[]).await, all, "search has all that was archived");
        assert_eq!(figures.outcomes.values().sum::<u64>(), all, "{:?}", figures.outcomes);
        let named = ["committed", "aborted", "malformed"];
        assert!(named.iter().all(|name| figures.outcomes.contains_key(*name)), "{:?}", figures.outcomes);
        assert_eq!(figures.bundles_per_repo(), self.counts("repo", &committed).await, "none is left out");
        assert_eq!(figures.bundles.len(), 3, "{:?}", figures.bundles);
        assert!((1..all).contains(&figures.operations_of_day), "{}", figures.operations_of_day);
        figures
    }

    /// How many operations have each team as an attribute of their own.
    async fn teams(&self) -> BTreeMap<String, u64> {
        let mut teams = BTreeMap::new();
        for number in 0..5 {
            let team = format!("team-{number}");
            let count = self.total(&[("q", &format!("payload.ops.attributes.team:{team}"))]).await;
            assert!(count > 0, "no operation has {team}");
            teams.insert(team, count);
        }
        teams
    }

    /// The same with the times of the latest version set back. The store's clock is ahead of the machine's, and of the versions that a catalog
    /// gives DuckDB reads the one of its own clock's present.
    async fn with_versions_of_the_past(self) -> Self {
        let location = self.table["metadata-location"].as_str().expect("a location");
        let key = location.strip_prefix("s3://index/").expect("an object of the index");
        let body = self.log.server.body("index", key).expect("it is there");
        let mut metadata: Value = serde_json::from_slice(&body).expect("JSON");
        set_back(&mut metadata);
        self.log.server.insert("index", key, metadata.to_string());
        let token = self.home.path().join("token");
        let serving = ["serve", "--auth-token-file", token.to_str().expect("a path of text")];
        let search = TidemarkProcess::serving(&serving, &self.log.environment).await.expect("search starts");
        let place = Self { search, ..self };
        place.search.until("search is ready", async || place.get("/readyz", &[]).await).await;
        place
    }

    /// What stands on the page, and what it is here.
    fn replacements(&self, days: &[String; 2]) -> [(&'static str, String); 12] {
        let location = self.table["metadata"]["location"].as_str().expect("a location").to_owned();
        let (index, log) = location.rsplit_once("/archive/").expect("a folder of the index");
        let (index, log) = (index.to_owned(), log.to_owned());
        let endpoint = self.log.server.endpoint().trim_start_matches("http://").to_owned();
        let [today, tomorrow] = days.clone();
        [
            ("http://127.0.0.1:7281", self.search.url().to_owned()),
            ("127.0.0.1:9000", endpoint),
            ("s3://bucket/index/archive/LOG-ID", location),
            ("s3://bucket/index", index),
            ("LOG-ID", log),
            ("KEY_ID 'KEY'", format!("KEY_ID '{}'", self.variable("AWS_ACCESS_KEY_ID"))),
            ("SECRET 'SECRET'", format!("SECRET '{}'", self.variable("AWS_SECRET_ACCESS_KEY"))),
            ("2026-11-29", today),
            ("2026-11-30", tomorrow),
            ("TOKEN 'TOKEN'", format!("TOKEN '{TOKEN}'")),
            ("\"token\": \"TOKEN\"", format!("\"token\": \"{TOKEN}\"")),
            ("wal.token=TOKEN", format!("wal.token={TOKEN}")),
        ]
    }

    /// The two blocks of a section of the page, one through the catalog and one by path, with the addresses and the days of the test.
    fn recipes(&self, section: &str, language: &str, days: &[String; 2]) -> [String; 2] {
        let sections = PAGE.split("\n## ").find(|text| text.starts_with(&format!("{section}\n")));
        let fences = sections.unwrap_or_else(|| panic!("the page has no section \"{section}\"")).split("```");
        let blocks = fences.skip(1).step_by(2).map(|block| {
            let block = block.strip_prefix(&format!("{language}\n"));
            let block = block.unwrap_or_else(|| panic!("a block of \"{section}\" is not in {language}"));
            self.replacements(days).iter().fold(block.to_owned(), |block, (text, by)| block.replace(text, by))
        });
        let blocks: Vec<_> = blocks.collect();
        <[String; 2]>::try_from(blocks).unwrap_or_else(|blocks| panic!("\"{section}\" has {} blocks", blocks.len()))
    }

    fn variable(&self, name: &str) -> &str {
        &self.log.environment[name]
    }

    /// Runs a program that finds the bucket as AWS's tools do, and gives what it printed.
    async fn run(&self, command: &mut Command, input: &str) -> String {
        command.env("HOME", self.home.path()).kill_on_drop(true);
        for name in ["NO_PROXY", "no_proxy"] {
            command.env(name, "127.0.0.1");
        }
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"] {
            command.env(name, self.variable(name));
        }
        // The page has these as properties of the catalog.
        command.env("PYICEBERG_CATALOG__WAL__S3__ENDPOINT", self.log.server.endpoint());
        command.env("PYICEBERG_CATALOG__WAL__S3__REGION", self.variable("AWS_REGION"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = command.spawn().expect("it starts");
        let mut stdin = running.stdin.take().expect("its input is piped");
        stdin.write_all(input.as_bytes()).await.expect("it reads");
        drop(stdin);
        let ended = tokio::time::timeout(READER_TIMEOUT, running.wait_with_output()).await;
        let ended = ended.expect("it ends").expect("it runs");
        assert!(ended.status.success(), "{input}\n{}", String::from_utf8_lossy(&ended.stderr));
        String::from_utf8(ended.stdout).expect("it prints text")
    }

    /// What a script of Python prints as JSON, a value a line.
    async fn python(&self, readers: &Path, script: &str) -> Vec<Value> {
        let said = self.run(Command::new(readers.join("bin/python")).arg("-"), script).await;
        said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The rows of each statement of a block of DuckDB's SQL.
    async fn duckdb(&self, readers: &Path, block: &str) -> Vec<Value> {
        let runner = root().join("tests/tools/foreign-readers/run_sql.py");
        let said = self.run(Command::new(readers.join("bin/python")).arg(runner), block).await;
        said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    async fn end(self) {
        assert!(self.search.stop().await.expect("it ends").success());
    }
}

/// Sets back each time of a version's metadata by more than the store's clock is ahead.
fn set_back(metadata: &mut Value) {
    match metadata {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_i64() {
                    Some(time) if ["timestamp-ms", "last-updated-ms"].contains(&name.as_str()) => {
                        *value = (time - AHEAD_MS).into();
                    }
                    _ => set_back(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(set_back),
        _ => {}
    }
}

/// A name and a number of each row.
fn pairs(rows: &Value) -> BTreeMap<String, u64> {
    let pair = |row: &Value| (row[0].as_str().unwrap_or("none").to_owned(), row[1].as_u64().expect("a number"));
    rows.as_array().expect("rows").iter().map(pair).collect()
}

/// The folder with the readers or Spark, or nothing where this machine cannot have it; in CI it has to.
async fn installed(script: &'static str, arguments: &'static [&'static str]) -> Option<std::path::PathBuf> {
    let folder = tokio::task::spawn_blocking(move || optional_script(script, arguments)).await;
    let folder = folder.expect("no panic").expect("it is installed");
    if folder.is_none() {
        eprintln!("SKIPPED: \"{script}\" says above what is missing, so the recipes do not run");
    }
    folder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_and_duckdb_come_to_what_search_says() {
    let Some(readers) = installed("python.sh", &["foreign-readers"]).await else { return };
    let place = RecipePlace::new().await;
    let refused = place.client.get(format!("{}/iceberg/v1/config", place.search.url())).send().await;
    assert_eq!(refused.expect("it answers").status(), 401, "the catalog asks for the token");
    let figures = place.figures().await;

    let [through_catalog, by_path] = place.recipes("pyiceberg and pandas", "python", &figures.days);
    let found = place.python(&readers, &format!("{by_path}{PRINT_FIGURES}")).await;
    assert_eq!(found, [figures.of_python()], "pyiceberg, by path");
    let found = place.python(&readers, &format!("{through_catalog}{PRINT_FIGURES}{PRINT_CATALOG}")).await;
    let [found, catalog] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(*found, figures.of_python(), "pyiceberg, through the catalog");
    let round = ArchivedLog::ROUND_OPERATIONS;
    let before = ArchivedLog::ROUNDS_BEFORE_RESTORE * round;
    let expected = json!({
        "tables": [["archive", "operations"]],
        "exist": [true, false],
        "versions": (1..=ArchivedLog::RESTORED_ROUNDS).map(|rounds| rounds * round).collect::<Vec<_>>(),
        "generations": { "g1": before, "g2": ArchivedLog::RESTORED_ROUNDS * round - before },
        "latest": place.table["metadata-location"],
    });
    assert_eq!(*catalog, expected, "pyiceberg, of the catalog and of each version");

    let [_, by_path] = place.recipes("DuckDB", "sql", &figures.days);
    assert_eq!(figures.compare_duckdb(&place.duckdb(&readers, &by_path).await, "by path"), [] as [Value; 0]);

    let teams = place.teams().await;
    let place = place.with_versions_of_the_past().await;
    let [through_catalog, _] = place.recipes("DuckDB", "sql", &figures.days);
    let more = figures.compare_duckdb(&place.duckdb(&readers, &through_catalog).await, "through the catalog");
    let [by_team, longest] = more.as_slice() else { panic!("{more:?}") };
    let mut found = pairs(by_team);
    found.remove("none");
    assert_eq!(found, teams, "DuckDB, through the catalog");
    assert_eq!(
        *longest,
        json!([[1]]),
        "DuckDB, through the catalog: each descriptor is a second younger than its entry"
    );
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "fetches Spark, 900 MiB; 'make long' runs it"]
async fn spark_comes_to_what_search_says() {
    let Some(jars) = installed("maven.sh", &["spark"]).await else { return };
    let place = RecipePlace::new().await;
    let figures = place.figures().await;
    let stand_in = root().join("tests/tools/spark");
    let path = format!("{}:{}", stand_in.display(), std::env::var("PATH").unwrap_or_default());
    for (recipe, way) in place.recipes("Spark", "sh", &figures.days).iter().zip(["through the catalog", "by path"]) {
        let mut command = Command::new("bash");
        command.args(["-euc", recipe]).env("PATH", &path).env("SPARK_JARS", &jars);
        let said = place.run(&mut command, "").await;
        let columns = said.lines().filter_map(|line| line.split_once('\t'));
        let found: BTreeMap<_, u64> =
            columns.filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?))).collect();
        let expected: BTreeMap<_, _> = figures.outcomes.clone().into_iter().chain(figures.bundles_per_repo()).collect();
        assert_eq!(found, expected, "Spark, {way}: {said}");
        let last = said.lines().last().and_then(|line| line.parse().ok());
        assert_eq!(last, Some(figures.operations_of_day), "Spark, {way}: {said}");
    }
    place.end().await;
}
