//! The matches over time, as a chart whose bars narrow the search.

use jiff::Timestamp;
use maud::{Markup, html};

use super::{
    format,
    search_url::{CLIENT_TIME, SearchUrl},
};
use tidemark_search::api::HistogramBucket;

/// Height of the chart in its own units; a bucket is 10 wide.
const HEIGHT: u64 = 60;
const WIDTH: usize = 10;

/// Spans before the watermark that are worth a link.
const RECENT: [(&str, i64); 4] = [("last hour", 3_600), ("day", 86_400), ("week", 604_800), ("30 days", 2_592_000)];

/// The parameter that says which time is counted by.
const BY: &str = "histogram_by";

fn is_by_client(search_url: &SearchUrl) -> bool {
    search_url.get(BY) == CLIENT_TIME
}

/// The chart; nothing without matches.
pub(crate) fn chart(buckets: &[HistogramBucket], search_url: &SearchUrl, watermark: Timestamp) -> Markup {
    let (Some(first), Some(last)) = (buckets.first(), buckets.last()) else {
        return html! {};
    };
    let most = buckets.iter().map(|bucket| bucket.count).max().unwrap_or(1).max(1);
    let by_client = is_by_client(search_url);
    html! {
        figure.histogram data-by=[by_client.then_some(CLIENT_TIME)] {
            figcaption {
                span { "Over "
                    @for (by, name) in [("", "time"), (CLIENT_TIME, "the client's date")] {
                        @if !by.is_empty() { " or " }
                        a href=(search_url.set(BY, by).href()) aria-current=[(search_url.get(BY) == by).then_some("true")] { (name) }
                    }
                }
                @if !by_client {
                    nav aria-label="Recent spans" {
                        @for (name, seconds) in RECENT { (recent(name, seconds, search_url, watermark)) }
                    }
                }
            }
            svg viewBox=(format!("0 0 {} {HEIGHT}", buckets.len() * WIDTH)) preserveAspectRatio="none"
                role="group" aria-label="Matches over time; each bar narrows the search to its span" {
                @for (place, bucket) in buckets.iter().enumerate() { (bar(place, bucket, most, search_url)) }
            }
            p.axis { (format::time(first.from)) (format::time(last.to)) }
        }
    }
}

fn bar(place: usize, bucket: &HistogramBucket, most: u64, search_url: &SearchUrl) -> Markup {
    let x = place * WIDTH;
    let height = if bucket.count == 0 { 0 } else { (bucket.count.saturating_mul(HEIGHT - 4) / most).max(2) };
    let (from, to) = (bucket.from.to_string(), bucket.to.to_string());
    let described = format!(
        "{}: {} to {}",
        format::count(bucket.count, "operation", "operations"),
        format::absolute(bucket.from),
        format::absolute(bucket.to)
    );
    let target = if is_by_client(search_url) {
        search_url.with_clause(&format!("clientTime:>={from} clientTime:<{to}"))
    } else {
        search_url.set("from", &from).set("to", &to)
    };
    html! {
        a href=(target.href()) data-from=(from) data-to=(to)
            aria-label=(described) tabindex=[(bucket.count == 0).then_some("-1")] {
            title { (described) }
            rect.hit-area x=(x) y="0" width=(WIDTH) height=(HEIGHT) {}
            rect.count x=(x + 1) y=(HEIGHT - height) width=(WIDTH - 2) height=(height) {}
        }
    }
}

fn recent(name: &str, seconds: i64, search_url: &SearchUrl, watermark: Timestamp) -> Markup {
    let from = Timestamp::from_second(watermark.as_second() - seconds).unwrap_or(Timestamp::MIN);
    let from = from.to_string();
    html! {
        a href=(search_url.set("to", "").set("from", &from).href())
            aria-current=[(search_url.get("from") == from).then_some("true")] { (name) }
    }
}
