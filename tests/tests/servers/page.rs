//! The page in a real Chromium, over a log that went through the whole pipeline.

mod browser;
pub(crate) mod site;

use browser::{BrowserTab, HeadlessBrowser};
use site::{ATTACK, PageSite};

/// A site with a browser on it; nothing where there is no Chromium and none is demanded.
async fn opened() -> Option<(PageSite, HeadlessBrowser, BrowserTab)> {
    let browser = HeadlessBrowser::start().await?;
    let site = PageSite::start().await;
    let tab = browser.open(&site.url("")).await;
    tab.until(
        "every entry is sealed and shown without a reload",
        "document.querySelectorAll('.hit').length === 5 && \
        document.querySelectorAll('.hit .outcome-pending').length === 0",
    )
    .await;
    Some((site, browser, tab))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_searches_narrows_and_reads_with_the_keyboard() {
    let Some((site, browser, tab)) = opened().await else { return };

    tab.run(
        "window.answers = []; document.querySelectorAll('#examples a').forEach(async (example) => \
            window.answers.push((await fetch(example.href)).status)); true",
    )
    .await;
    tab.until("every example is a query", "answers.length > 5 && answers.every((status) => status === 200)").await;

    tab.press("/").await;
    tab.until("the box has the focus", "document.activeElement.id === 'q'").await;
    tab.type_text("race").await;
    tab.press("Enter").await;
    tab.until(
        "one bundle is found",
        "location.search.includes('q=race') && document.querySelectorAll('.hit').length === 1",
    )
    .await;
    assert_eq!(tab.text(".hit .title").await, "Fix a race in the flush");

    tab.press("j").await;
    tab.until("the hit has the focus", "document.activeElement.matches('.hit .title')").await;
    tab.press("Enter").await;
    tab.until("the entry is shown", "document.body.dataset.page === 'entry'").await;
    assert!(tab.text("h1").await.contains(&site.race.to_string()));
    assert!(tab.text("article .json").await.contains("Grace Hopper"), "the descriptor is shown");

    tab.press("Escape").await;
    tab.until("the search is back", "location.search.includes('q=race') && document.body.dataset.page === 'search'")
        .await;

    tab.go(&site.url("")).await;
    tab.click("#facets a[href*='kind=label']").await;
    tab.until(
        "only labels are left",
        "document.querySelectorAll('.hit').length === 1 && \
        document.querySelector('.chips a').textContent.includes('label')",
    )
    .await;
    tab.click(".hit a.history").await;
    tab.until("the label's history is shown", "document.body.dataset.page === 'history'").await;
    assert!(tab.text("h1").await.contains("label/models/v1"));
    assert!(tab.text(".standing").await.contains("b1"), "where the label points");

    tab.go(&site.url("status")).await;
    assert!(tab.text("#state").await.contains("Decided and served before"));
    assert!(tab.text(".outcomes").await.contains("malformed"));

    tab.asked_only(&site.url(""));
    tab.no_complaints();
    browser.close().await;
    site.stop().await;
}

/// From a phone to a wide screen, in pixels.
const WIDTHS: [u32; 4] = [360, 768, 1280, 1600];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_cut_off_from_a_phone_to_a_wide_screen() {
    let Some((site, browser, tab)) = opened().await else { return };
    let long = format!("A long word {} and many others: {}", "x".repeat(150), "race ".repeat(80));
    let wide = site.append_child(&"b".repeat(120), &long, "b1").await;
    tab.until("the new entry shows", "document.querySelectorAll('.hit').length === 6").await;
    let search =
        format!("{}&kind=bundle&from=2020-01-01&facets=payload.attributes.team", site::query("race OR hopper"));
    let paths = [
        String::new(),
        search,
        site::query("nothing-like-this"),
        site::query("(race"),
        format!("entry?token={wide}"),
        format!("entry?token={}", site.hostile),
        format!("entry?token={}", site.malformed),
        format!("entry?token={}", site.race),
        format!("entity?key=bundle/models/{}", "b".repeat(120)),
        "entity?key=bundle/models/b1".to_owned(),
        "entity?key=label/models/v1".to_owned(),
        "status".to_owned(),
        "status?a=b".to_owned(),
    ];
    for path in &paths {
        tab.go(&site.url(path)).await;
        for width in WIDTHS {
            tab.resize(width).await;
            tab.until("the page is complete", &format!("document.readyState === 'complete' && innerWidth === {width}"))
                .await;
            let faults: Vec<String> = tab.value(include_str!("page/layout.js")).await;
            assert!(faults.is_empty(), "{path} at {width}: {faults:#?}");
            tab.run("document.querySelectorAll('.help').forEach((help) => { help.open = true; })").await;
            let faults: Vec<String> = tab.value(include_str!("page/layout.js")).await;
            let outside: Vec<_> = faults.iter().filter(|fault| fault.contains("reaches from")).collect();
            assert!(outside.is_empty(), "{path} at {width}, with the help: {outside:#?}");
            tab.run("document.querySelectorAll('.help').forEach((help) => { help.open = false; })").await;
        }
    }
    browser.close().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_shown_is_in_the_address() {
    let Some((site, browser, tab)) = opened().await else { return };
    tab.go(&site.url("?q=race&kind=bundle&sort=oldest&size=1")).await;
    assert_eq!(tab.text(".hit .title mark").await, "race", "what was searched is marked");
    tab.run("document.querySelector('#q').value = 'clock'; document.querySelector('.ask').requestSubmit()").await;
    tab.until("another query keeps the rest", "location.search.includes('q=clock')").await;
    tab.until(
        "filter, order and size are kept",
        "['kind=bundle', 'sort=oldest', 'size=1'].every((part) => location.search.includes(part)) && \
        document.querySelectorAll('.hit').length === 1",
    )
    .await;
    tab.click(".help summary").await;
    tab.until("what is unfolded is in the address", "location.hash === '#open=help'").await;
    let shared = tab.address().await;
    tab.go(&site.url("status")).await;
    tab.run(&format!("location.assign({shared:?})")).await;
    tab.until(
        "and is unfolded by it",
        "document.body.dataset.page === 'search' && document.querySelector('.help').open",
    )
    .await;
    assert_eq!(tab.text(".hit .title").await, "Document the clock");
    tab.no_complaints();
    browser.close().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attribute_is_counted_and_the_clients_date_narrows() {
    let Some((site, browser, tab)) = opened().await else { return };
    tab.go(&site.url("?kind=bundle")).await;
    tab.run("document.querySelector('#attribute').value = 'payload.attributes.team'; document.querySelector('.add-attribute').requestSubmit()")
        .await;
    // The page before has a last section of facets too.
    tab.until(
        "the attribute is counted",
        "location.search.includes('payload.attributes.team') && document.readyState === 'complete'",
    )
    .await;
    tab.click("#facets section:last-of-type li a").await;
    tab.until(
        "the query has the clause, and all that have the value are found",
        "document.querySelector('#q').value === 'payload.attributes.team:[\"core team\" TO \"core team\"]' && \
        document.querySelectorAll('.hit').length === 3 && document.querySelector('.chips').textContent.includes('bundle')",
    )
    .await;
    tab.click("#facets section:last-of-type li a[aria-current]").await;
    tab.until("the clause goes with another click", "document.querySelector('#q').value === ''").await;

    tab.go(&site.url("?sort=clientTimeOldest&histogram_by=clientTime")).await;
    tab.run("document.querySelector('.histogram svg a').dispatchEvent(new MouseEvent('click', {bubbles: true}))").await;
    tab.until(
        "those of the client's date are found",
        "document.querySelector('#q').value.startsWith('clientTime:>=2020-02-29') && document.querySelectorAll('.hit').length === 4",
    )
    .await;
    tab.no_complaints();
    browser.close().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_text_runs_nowhere() {
    let Some((site, browser, tab)) = opened().await else { return };
    assert!(tab.text("#results").await.contains(ATTACK), "the attack is shown as text");
    for path in
        [format!("entry?token={}", site.hostile), format!("entry?token={}", site.malformed), site::query(ATTACK)]
    {
        tab.go(&site.url(&path)).await;
        tab.until("the page is complete", "document.readyState === 'complete'").await;
        let runs: bool =
            tab.value("window.attacked !== undefined || document.querySelector('main img') !== null").await;
        assert!(!runs, "{path}");
    }
    tab.asked_only(&site.url(""));
    browser.close().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_works_without_a_script_and_lives_with_one() {
    let Some((site, browser, tab)) = opened().await else { return };

    site.append("b9", "Appended while somebody watches").await;
    tab.until(
        "the new entry shows by itself",
        "document.querySelector('.hit .title').textContent === 'Appended while somebody watches'",
    )
    .await;

    tab.go(&site.url(&format!("entry?token={}", site.race))).await;
    let asked = "performance.getEntriesByType('resource').map((asked) => asked.name)";
    tab.until("the state is asked for", &format!("{asked}.some((name) => name.endsWith('/v1/status'))")).await;
    site.append("b10", "Appended while somebody reads").await;
    let fresh = format!("{asked}.some((name) => name.endsWith('/status') && !name.endsWith('/v1/status'))");
    tab.until("the freshness is shown again", &fresh).await;
    let again: bool = tab.value(&format!("{asked}.some((name) => name.includes('entry?token'))")).await;
    assert!(!again, "an entry that was shown is not asked for again");

    tab.without_scripts().await;
    tab.go(&site.url("?q=race")).await;
    assert_eq!(tab.text(".hit .title").await, "Fix a race in the flush");
    assert!(tab.text(".hit time").await.ends_with("UTC"), "exact times are there");
    tab.no_complaints();
    browser.close().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lineage_of_a_bundle_is_followed_without_a_script() {
    let Some((site, browser, tab)) = opened().await else { return };
    site.append_child("b4", "Made from the first", "b1").await;
    tab.until("the child shows", "document.querySelectorAll('.hit').length === 6").await;
    tab.without_scripts().await;
    tab.go(&site.url("entity?key=bundle/models/b1")).await;
    assert!(tab.text(".relatives").await.contains("Children"));
    assert_eq!(tab.text(".relatives a").await, "Made from the first");
    tab.click(".relatives a").await;
    tab.until("the child's history is shown", "document.querySelector('h1').innerText.includes('bundle/models/b4')")
        .await;
    tab.click(".relatives a").await;
    tab.until("and its parent's again", "document.querySelector('h1').innerText.includes('bundle/models/b1')").await;
    tab.no_complaints();
    browser.close().await;
    site.stop().await;
}
