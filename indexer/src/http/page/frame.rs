//! What every page has around it: head, search box, freshness, navigation and foot.

use maud::{DOCTYPE, Markup, html};

use super::{assets, format, help, search_url::SearchUrl};
use crate::http::{app::AppState, problem::HttpProblem};
use tidemark_search::api::StatusAnswer;

/// The frame of a page.
pub(crate) struct PageFrame {
    title: &'static str,
    search_url: SearchUrl,
    status: Option<StatusAnswer>,
}

impl PageFrame {
    /// A frame with this title.
    pub(crate) fn new(app: &AppState, title: &'static str) -> Self {
        Self { title, search_url: SearchUrl::default(), status: app.status() }
    }

    /// The frame with the query of a search in its box.
    pub(crate) fn asking(self, search_url: &SearchUrl) -> Self {
        Self { search_url: search_url.clone(), ..self }
    }

    /// The whole page.
    pub(crate) fn render(&self, body: &Markup) -> String {
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.heading()) }
                    link rel="icon" type="image/svg+xml" href=(assets::icon());
                    link rel="stylesheet" href=(assets::style());
                    script src=(assets::script()) defer {}
                }
                body data-page=(self.title.to_lowercase()) {
                    a.skip href="#main" { "Skip to the content" }
                    (self.header())
                    main #main tabindex="-1" { (body) }
                    (self.footer())
                }
            }
        }
        .into_string()
    }

    fn heading(&self) -> String {
        match self.search_url.get("q") {
            "" => format!("{} · Tidemark", self.title),
            query => format!("{query} · Tidemark"),
        }
    }

    fn header(&self) -> Markup {
        html! {
            header.top {
                div.bar {
                    a.brand href="./" { (logo()) span { "Tidemark" } }
                    (self.form())
                    nav aria-label="Pages" {
                        a href="./" aria-current=[(self.title == "Search").then_some("page")] { "Search" }
                        a href="status" aria-current=[(self.title == "Status").then_some("page")] { "Status" }
                    }
                    (freshness(self.status.as_ref()))
                }
            }
        }
    }

    fn form(&self) -> Markup {
        html! {
            search {
                form.ask action="./" method="get" {
                    div.box {
                        (lens())
                        label.hidden for="q" { "Search the log" }
                        input #q name="q" type="search" value=(self.search_url.get("q")) autocomplete="off"
                            spellcheck="false" autocapitalize="none" maxlength="4096"
                            placeholder="Search the log" aria-describedby="help";
                        kbd aria-hidden="true" { "/" }
                    }
                    @for (name, value) in self.search_url.kept() {
                        input type="hidden" name=(name) value=(value);
                    }
                    button type="submit" { "Search" }
                }
                (help::panel())
            }
        }
    }

    fn footer(&self) -> Markup {
        html! {
            footer.foot {
                @if let Some(status) = &self.status {
                    span { "generation " code { (status.index_version.generation) } }
                    span { "manifest " code { (status.index_version.manifest) } }
                }
                a href="openapi.json" { "API" }
                a href="metrics" { "Metrics" }
                span.keys aria-hidden="true" {
                    kbd { "/" } " search " kbd { "j" } kbd { "k" } " move " kbd { "Enter" } " open " kbd { "Esc" } " back"
                }
            }
        }
    }
}

/// How fresh the answers are; the script keeps it up to date.
fn freshness(status: Option<&StatusAnswer>) -> Markup {
    let health = health(status);
    html! {
        a.freshness #freshness data-health=(health) href="status" data-live {
            span.dot aria-hidden="true" {}
            @match status {
                None => span { "no index yet" },
                Some(status) => {
                    span.label {
                        @if status.lag_seconds > 0 { (format::span(status.lag_seconds)) " behind, " }
                        "final up to "
                    }
                    (format::time(status.index_version.watermark))
                }
            }
        }
    }
}

/// `good`, `behind` or `bad`.
pub(super) fn health(status: Option<&StatusAnswer>) -> &'static str {
    match status {
        Some(status) if status.problems.is_empty() && status.lag_seconds < 60 => "good",
        Some(status) if status.problems.is_empty() => "behind",
        _ => "bad",
    }
}

/// A problem as a page.
pub(super) fn problem(problem: &HttpProblem) -> Markup {
    html! {
        section.notice.bad role="alert" data-passes[problem.status == 503] {
            h1 { (problem.title) }
            p { (problem.detail) }
            p { a href="./" { "Back to the search" } }
        }
    }
}

fn logo() -> Markup {
    html! {
        svg viewBox="0 0 32 32" aria-hidden="true" {
            path d="M3 12c3.200-3.400 5.400-3.400 8.700 0s5.400 3.400 8.700 0 5.400-3.400 8.600 0" {}
            path.under d="M3 21c3.200-3.400 5.400-3.400 8.700 0s5.400 3.400 8.700 0 5.400-3.400 8.600 0" {}
        }
    }
}

fn lens() -> Markup {
    html! {
        svg.lens viewBox="0 0 20 20" aria-hidden="true" { circle cx="8.5" cy="8.5" r="5.5" {} path d="m13 13 5 5" {} }
    }
}
