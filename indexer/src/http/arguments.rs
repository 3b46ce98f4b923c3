//! The values that parameters take: how each is read, and the schema that describes exactly the texts that are accepted.

use std::{borrow::Cow, fmt::Write as _, sync::LazyLock, time::Duration};

use jiff::{Timestamp, civil, tz::TimeZone};
use regex::Regex;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, IntoDeserializer as _},
};
use tidemark_store::StoreSecond;
use tidemark_wal::{Outcome, Token};
use utoipa::{
    IntoParams, PartialSchema, ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{ArrayBuilder, ObjectBuilder, Type},
    },
};

use super::extract::quoted;
use tidemark_search::api::{
    AttributeName, DEFAULT_CHANGES, DEFAULT_LINEAGE_DEPTH, DEFAULT_PAGE_SIZE, FEED_POSITION_PATTERN, FacetField,
    FeedPosition, FeedStart, HistogramTime, LineageDepth, MAX_ATTRIBUTE_FACETS, MAX_FILTER_VALUES, MAX_LINEAGE_DEPTH,
    MAX_PAGE_SIZE, MAX_QUERY_CHARS, PageSize, QueryText, SortOrder,
};

/// The longest wait that may be asked for, in seconds.
const MAX_WAIT_SECS: u64 = 20;
/// How long `min_token` waits when `wait` is not given, in seconds.
const DEFAULT_WAIT_SECS: u64 = 5;

/// The value of a parameter, written as one text.
trait ArgumentValue: Sized {
    /// What the text has to be.
    fn expected() -> String;
    /// The value that the text writes.
    fn parse(text: &str) -> Option<Self>;
}

/// Implements `Deserialize` and an inline schema for a type that is read from one text.
macro_rules! argument_value {
    ($type:ty, $schema:expr $(, $($generics:tt)+)?) => {
        impl<'de, $($($generics)+)?> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                Self::parse(&text).ok_or_else(|| {
                    D::Error::custom(format_args!("\"{}\" is not valid; expected {}", quoted(&text), Self::expected()))
                })
            }
        }

        impl<$($($generics)+)?> PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::from($schema).into()
            }
        }

        impl<$($($generics)+)?> ToSchema for $type {}
    };
}

/// A whole number from `MIN` to `MAX`; `DEFAULT` when it is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BoundedNumber<const MIN: u64, const MAX: u64, const DEFAULT: u64>(u64);

impl<const MIN: u64, const MAX: u64, const DEFAULT: u64> BoundedNumber<MIN, MAX, DEFAULT> {
    /// The number.
    pub(crate) fn get(self) -> u64 {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64, const DEFAULT: u64> Default for BoundedNumber<MIN, MAX, DEFAULT> {
    fn default() -> Self {
        Self(DEFAULT)
    }
}

impl<const MIN: u64, const MAX: u64, const DEFAULT: u64> ArgumentValue for BoundedNumber<MIN, MAX, DEFAULT> {
    fn expected() -> String {
        format!("a number from {MIN} to {MAX}")
    }

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().filter(|number| (MIN..=MAX).contains(number)).map(Self)
    }
}

argument_value!(
    BoundedNumber<MIN, MAX, DEFAULT>,
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(MIN))
        .maximum(Some(MAX))
        .default(Some(DEFAULT.into())),
    const MIN: u64, const MAX: u64, const DEFAULT: u64
);

/// The hits of a page of a search; 0 counts only.
pub(crate) type SearchPageSize = BoundedNumber<0, { MAX_PAGE_SIZE as u64 }, { DEFAULT_PAGE_SIZE as u64 }>;
/// The operations of a page of a history.
pub(crate) type HistoryPageSize = BoundedNumber<1, { MAX_PAGE_SIZE as u64 }, { DEFAULT_PAGE_SIZE as u64 }>;
/// The generations of a lineage.
pub(crate) type LineageDepthArg = BoundedNumber<1, { MAX_LINEAGE_DEPTH as u64 }, { DEFAULT_LINEAGE_DEPTH as u64 }>;
/// The most changes of an answer.
pub(crate) type ChangesLimit = BoundedNumber<1, { MAX_PAGE_SIZE as u64 }, { DEFAULT_CHANGES as u64 }>;
/// How long a request waits for a change.
pub(crate) type ChangesWait = BoundedNumber<0, MAX_WAIT_SECS, 0>;
/// How long `min_token` waits.
type WaitSeconds = BoundedNumber<0, MAX_WAIT_SECS, DEFAULT_WAIT_SECS>;

impl<const DEFAULT: u64> BoundedNumber<0, { MAX_PAGE_SIZE as u64 }, DEFAULT> {
    /// As the size of a page.
    pub(crate) fn page_size(self) -> PageSize<0> {
        usize::try_from(self.0).ok().and_then(|size| PageSize::new(size).ok()).unwrap_or_default()
    }
}

impl<const DEFAULT: u64> BoundedNumber<1, { MAX_PAGE_SIZE as u64 }, DEFAULT> {
    /// As the size of a page.
    pub(crate) fn page_size(self) -> PageSize<1> {
        usize::try_from(self.0).ok().and_then(|size| PageSize::new(size).ok()).unwrap_or_default()
    }
}

impl LineageDepthArg {
    /// As the depth of a lineage.
    pub(crate) fn lineage_depth(self) -> LineageDepth {
        u8::try_from(self.0).ok().and_then(|depth| LineageDepth::new(depth).ok()).unwrap_or_default()
    }
}

/// A query in the query language.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueryArg(pub(crate) QueryText);

impl ArgumentValue for QueryArg {
    fn expected() -> String {
        format!("a query of {MAX_QUERY_CHARS} characters at most")
    }

    fn parse(text: &str) -> Option<Self> {
        // Blanks around a query count, as they do in the document.
        QueryText::new(text).and_then(|_| QueryText::new(text.trim())).ok().map(Self)
    }
}

argument_value!(QueryArg, ObjectBuilder::new().schema_type(Type::String).max_length(Some(MAX_QUERY_CHARS)));

/// The most names in one value of `kind`: with [`MAX_KIND_VALUES`] values they are as many as a filter takes.
const MAX_KIND_NAMES: usize = 10;
/// The most values of `kind`.
pub(crate) const MAX_KIND_VALUES: usize = MAX_FILTER_VALUES / MAX_KIND_NAMES;

/// Kinds, separated by commas: names of ours, none has a comma in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KindNames(pub(crate) Vec<String>);

impl ArgumentValue for KindNames {
    fn expected() -> String {
        format!("at most {MAX_KIND_NAMES} kinds, separated by commas")
    }

    fn parse(text: &str) -> Option<Self> {
        let names: Vec<String> = text.split(',').map(str::to_owned).collect();
        (names.len() <= MAX_KIND_NAMES).then_some(Self(names))
    }
}

argument_value!(
    KindNames,
    ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(format!("^[^,]*(,[^,]*){{0,{}}}$", MAX_KIND_NAMES - 1)))
);

/// At most `MAX` values. Those without text count, as they do in the document, and are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BoundedList<T, const MAX: usize>(pub(crate) Vec<T>);

impl<T, const MAX: usize> Default for BoundedList<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: DeserializeOwned, const MAX: usize> Deserialize<'de> for BoundedList<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        if texts.len() > MAX {
            return Err(D::Error::custom(format_args!("{} values are too many; expected at most {MAX}", texts.len())));
        }
        let values = texts.into_iter().filter(|text| !text.is_empty());
        values.map(|text| T::deserialize(text.into_deserializer())).collect::<Result<_, _>>().map(Self)
    }
}

impl<T: PartialSchema, const MAX: usize> PartialSchema for BoundedList<T, MAX> {
    fn schema() -> RefOr<Schema> {
        ArrayBuilder::new().items(T::schema()).max_items(Some(MAX)).into()
    }
}

impl<T: PartialSchema, const MAX: usize> ToSchema for BoundedList<T, MAX> {}

/// The values of a filter.
pub(crate) type FilterValues = BoundedList<String, MAX_FILTER_VALUES>;
/// The values of the filter by kind.
pub(crate) type KindValues = BoundedList<KindNames, MAX_KIND_VALUES>;

/// A value that has a name in the API.
pub(crate) trait NamedValue: Copy + 'static {
    /// Every value with its name.
    fn all() -> Vec<(&'static str, Self)>;

    /// The value of this name.
    fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Every name, with `between` between two.
    fn names(between: &str) -> String {
        Self::all().into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(between)
    }
}

impl NamedValue for Outcome {
    fn all() -> Vec<(&'static str, Self)> {
        Self::ALL.into_iter().map(|outcome| (outcome.as_str(), outcome)).collect()
    }
}

impl NamedValue for SortOrder {
    fn all() -> Vec<(&'static str, Self)> {
        vec![
            ("newest", Self::Newest),
            ("oldest", Self::Oldest),
            ("relevance", Self::Relevance),
            ("clientTime", Self::ClientTime),
            ("clientTimeOldest", Self::ClientTimeOldest),
        ]
    }
}

impl NamedValue for HistogramTime {
    fn all() -> Vec<(&'static str, Self)> {
        vec![("time", Self::Time), ("clientTime", Self::ClientTime)]
    }
}

/// What is counted beside the hits: a facet, or the matches over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CountedField {
    /// The values of a facet.
    Facet(FacetField),
    /// The histogram.
    Time,
}

impl NamedValue for CountedField {
    fn all() -> Vec<(&'static str, Self)> {
        let facets = FacetField::ALL.into_iter().map(|facet| (facet.name(), Self::Facet(facet)));
        facets.chain([("time", Self::Time)]).collect()
    }
}

/// One of the names of `T`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OneName<T>(pub(crate) T);

impl<T: NamedValue> ArgumentValue for OneName<T> {
    fn expected() -> String {
        format!("one of {}", T::names(", "))
    }

    fn parse(text: &str) -> Option<Self> {
        T::named(text).map(Self)
    }
}

argument_value!(
    OneName<T>,
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(T::all().into_iter().map(|(name, _)| name))),
    T: NamedValue
);

/// Names of `T`, separated by commas; blanks and empty places do not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NameList<T>(pub(crate) Vec<T>);

impl<T: NamedValue> ArgumentValue for NameList<T> {
    fn expected() -> String {
        format!("any of {}, separated by commas", T::names(", "))
    }

    fn parse(text: &str) -> Option<Self> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.map(T::named).collect::<Option<_>>().map(Self)
    }
}

argument_value!(
    NameList<T>,
    ObjectBuilder::new().schema_type(Type::String).pattern(Some({
        let names = T::names("|");
        format!(r"^\s*({names})?\s*(,\s*({names})?\s*)*$")
    })),
    T: NamedValue
);

/// What to count: names of facets, `time`, and attributes, separated by commas; blanks and empty places do not count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CountedNames {
    pub(crate) fields: Vec<CountedField>,
    pub(crate) attributes: Vec<AttributeName>,
}

impl CountedNames {
    /// Whatever is counted when the request does not say.
    pub(crate) fn everything() -> Self {
        Self { fields: CountedField::all().into_iter().map(|(_, field)| field).collect(), attributes: Vec::new() }
    }
}

impl ArgumentValue for CountedNames {
    fn expected() -> String {
        let fields = CountedField::names(", ");
        format!(
            "any of {fields}, and at most {MAX_ATTRIBUTE_FACETS} attributes as payload.attributes.team, separated by commas"
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let mut counted = Self::default();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match CountedField::named(name) {
                Some(field) => counted.fields.push(field),
                None => counted.attributes.push(AttributeName::new(name)?),
            }
        }
        (counted.attributes.len() <= MAX_ATTRIBUTE_FACETS).then_some(counted)
    }
}

argument_value!(
    CountedNames,
    ObjectBuilder::new().schema_type(Type::String).pattern(Some({
        let field = format!(r"\s*({})?\s*", CountedField::names("|"));
        let attribute = r"\s*(payload|descriptor)\.[^,\s\x00]([^,\x00]*[^,\s\x00])?\s*";
        let others = MAX_ATTRIBUTE_FACETS - 1;
        // The bound on attributes is part of it: fields alone, or up to so many attributes with fields between them.
        format!("^({field},)*({field}|({attribute},({field},)*){{0,{others}}}{attribute}(,{field})*)$")
    }))
);

/// The order of the hits.
pub(crate) type SortName = OneName<SortOrder>;
/// The time of the histogram.
pub(crate) type HistogramTimeName = OneName<HistogramTime>;
/// Outcomes to filter by.
pub(crate) type OutcomeNames = NameList<Outcome>;

/// A token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenText(pub(crate) Token);

impl ArgumentValue for TokenText {
    fn expected() -> String {
        "a token: 27 letters and digits".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }
}

argument_value!(
    TokenText,
    ObjectBuilder::new().schema_type(Type::String).pattern(Some(format!("^({})$", *TOKEN_PATTERN)))
);

/// A place in the log: a token, or a time, which stands for the first token of its second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogPosition(pub(crate) Token);

impl ArgumentValue for LogPosition {
    fn expected() -> String {
        "a token or an RFC 3339 time, as \"2026-11-20T10:00:00Z\" or \"2026-11-20\"".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        if let Ok(token) = text.parse() {
            return Some(Self(token));
        }
        let time = instant(text)?;
        // The first whole second at or after the instant: no entry of an earlier second is meant.
        let at = StoreSecond::floor(time);
        let at = if time.subsec_nanosecond() > 0 { at.next() } else { at };
        Some(Self(Token::first_of(at)))
    }
}

argument_value!(
    LogPosition,
    ObjectBuilder::new().schema_type(Type::String).pattern(Some(format!("^({}|{TIME_PATTERN})$", *TOKEN_PATTERN)))
);

/// Where a feed of changes starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FeedStartText(pub(crate) FeedStart);

/// What comes before the name of a snapshot.
const SNAPSHOT_PREFIX: &str = "snapshot:";
/// The names that snapshots have: labels of DNS.
const SNAPSHOT_NAME_PATTERN: &str = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?";

static SNAPSHOT_NAME: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(&format!("^{SNAPSHOT_NAME_PATTERN}$")).ok());

impl ArgumentValue for FeedStartText {
    fn expected() -> String {
        "\"now\", a position as \"g1:1234\", a token, an RFC 3339 time, or \"snapshot:\" with a snapshot's name"
            .to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        if text == "now" {
            return Some(Self(FeedStart::Latest));
        }
        if let Some(name) = text.strip_prefix(SNAPSHOT_PREFIX) {
            let is_name = SNAPSHOT_NAME.as_ref().is_some_and(|pattern| pattern.is_match(name));
            return is_name.then(|| Self(FeedStart::Snapshot(name.to_owned())));
        }
        if let Ok(position) = text.parse() {
            return Some(Self(FeedStart::After(position)));
        }
        LogPosition::parse(text).map(|LogPosition(token)| Self(FeedStart::Token(token)))
    }
}

argument_value!(
    FeedStartText,
    ObjectBuilder::new().schema_type(Type::String).pattern(Some(format!(
        "^(now|{FEED_POSITION_PATTERN}|{SNAPSHOT_PREFIX}{SNAPSHOT_NAME_PATTERN}|{}|{TIME_PATTERN})$",
        *TOKEN_PATTERN
    )))
);

/// The id of the last event that a client has; none where it has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EventIdText(pub(crate) Option<FeedPosition>);

impl ArgumentValue for EventIdText {
    fn expected() -> String {
        "the id of an event, as \"g1:1234\"".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() { Some(Self(None)) } else { text.parse().ok().map(|position| Self(Some(position))) }
    }
}

argument_value!(
    EventIdText,
    ObjectBuilder::new().schema_type(Type::String).pattern(Some(format!("^({FEED_POSITION_PATTERN})?$")))
);

/// A day of the calendar with a time of day and an offset, both optional. Without an offset it is UTC.
const TIME_PATTERN: &str = concat!(
    "(([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))",
    "|([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)",
    "([Tt ]([01][0-9]|2[0-3]):[0-5][0-9](:([0-5][0-9]|60)(\\.[0-9]{1,9})?)?([Zz]|[+-]([01][0-9]|2[0-3])(:?[0-5][0-9])?)?)?)",
);

static TIME: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(&format!("^{TIME_PATTERN}$")).ok());

/// 27 digits of base 62 that are at most the largest token: a larger number has more than 160 bits.
static TOKEN_PATTERN: LazyLock<String> = LazyLock::new(|| {
    let largest = Token::from_bytes([u8::MAX; Token::BYTES]).to_string();
    let mut pattern = String::new();
    for (place, digit) in largest.char_indices().filter(|(_, digit)| *digit != '0') {
        let below = char::from_u32(u32::from(digit) - 1).unwrap_or('0');
        let class = match digit {
            '1'..='9' => format!("0-{below}"),
            'A' => "0-9".to_owned(),
            'B'..='Z' => format!("0-9A-{below}"),
            'a' => "0-9A-Z".to_owned(),
            _ => format!("0-9A-Za-{below}"),
        };
        let more = Token::DIGITS - place - 1;
        let _ = write!(pattern, "{}[{class}][0-9A-Za-z]{{{more}}}|", &largest[..place]);
    }
    pattern + &largest
});

fn instant(text: &str) -> Option<Timestamp> {
    if !TIME.as_ref().is_some_and(|time| time.is_match(text)) {
        return None;
    }
    let utc = |time: civil::DateTime| TimeZone::UTC.to_timestamp(time).ok();
    let read = text.parse::<Timestamp>().ok().or_else(|| text.parse::<civil::DateTime>().ok().and_then(utc));
    // The calendar of the library ends a day before the year 9999 does.
    Some(read.unwrap_or(Timestamp::MAX))
}

/// Waiting for an entry to be visible.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct MinTokenArgs {
    /// Wait until this entry is visible.
    #[param(inline)]
    min_token: Option<TokenText>,
    /// The longest wait for it, in seconds.
    #[param(inline)]
    wait: Option<WaitSeconds>,
}

impl MinTokenArgs {
    /// The token that has to be visible first, with the longest wait for it.
    pub(crate) fn min_token(self) -> Option<(Token, Duration)> {
        let wait = self.wait.unwrap_or_default();
        self.min_token.map(|TokenText(token)| (token, Duration::from_secs(wait.get())))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, string::string_regex};

    use super::*;

    fn place(text: &str) -> Option<Token> {
        LogPosition::parse(text).map(|LogPosition(token)| token)
    }

    fn matches(pattern: &str, text: &str) -> bool {
        Regex::new(&format!("^({pattern})$")).unwrap().is_match(text)
    }

    #[test]
    fn names_are_separated_by_commas() {
        let read = |text| NameList::<Outcome>::parse(text).map(|NameList(outcomes)| outcomes);
        assert_eq!(read("late,aborted"), Some(vec![Outcome::Late, Outcome::Aborted]));
        assert_eq!(read(" late ,, "), Some(vec![Outcome::Late]));
        assert_eq!(read("lost"), None);
    }

    #[test]
    fn a_place_is_a_token_a_time_or_a_day() {
        let first = |unix| Some(Token::first_of(StoreSecond::from_unix(unix)));
        for (text, unix) in [
            ("2026-11-20T10:00:00Z", 1_795_168_800),
            ("2026-11-20T10:00:00", 1_795_168_800),
            ("2026-11-20T10:00", 1_795_168_800),
            ("2026-11-20T09:59:59.5Z", 1_795_168_800),
            ("2026-11-20T11:00:00+01:00", 1_795_168_800),
            ("2026-11-20", 1_795_132_800),
        ] {
            assert_eq!(place(text), first(unix), "{text}");
        }
        let token = "0ujtsYcgvSTl8PAuAdqWYSMnLOv";
        assert_eq!(place(token), token.parse().ok());
        for text in ["yesterday", "2026-02-29", "2100-02-29", "2026-13-01", "2026-11-20T24:00:00Z", "2026-11-20Z"] {
            assert_eq!(place(text), None, "{text}");
        }
        assert!(place("2028-02-29").is_some() && place("2000-02-29").is_some());
    }

    fn feed_start(text: &str) -> Option<FeedStart> {
        FeedStartText::parse(text).map(|FeedStartText(start)| start)
    }

    #[test]
    fn a_feed_starts_at_a_position_a_token_a_time_a_snapshot_or_now() {
        assert_eq!(feed_start("now"), Some(FeedStart::Latest));
        assert_eq!(feed_start("g1:7"), Some(FeedStart::After("g1:7".parse().unwrap())));
        assert_eq!(
            feed_start("g1:7:0123abcd4567ef89"),
            Some(FeedStart::After("g1:7:0123abcd4567ef89".parse().unwrap()))
        );
        assert_eq!(feed_start("2026-11-20"), place("2026-11-20").map(FeedStart::Token));
        assert_eq!(
            feed_start("0ujtsYcgvSTl8PAuAdqWYSMnLOv"),
            place("0ujtsYcgvSTl8PAuAdqWYSMnLOv").map(FeedStart::Token)
        );
        assert_eq!(feed_start("snapshot:before-g2"), Some(FeedStart::Snapshot("before-g2".to_owned())));
        for text in ["", "Now", "before-g2", "snapshot:", "snapshot:-a", "snapshot:A", "g1", "g1:-1", "7", "2026-02-29"]
        {
            assert_eq!(feed_start(text), None, "{text}");
        }
    }

    #[test]
    fn a_wait_is_bounded() {
        assert_eq!(WaitSeconds::parse("21"), None);
        assert_eq!(WaitSeconds::parse("20").map(WaitSeconds::get), Some(20));
        assert_eq!(MinTokenArgs { min_token: None, wait: None }.min_token(), None);
    }

    proptest! {
        #[test]
        fn every_text_of_the_pattern_of_times_is_a_place(text in string_regex(TIME_PATTERN).unwrap()) {
            prop_assert!(place(&text).is_some(), "{}", text);
        }

        #[test]
        fn the_pattern_of_tokens_is_what_a_token_may_be(text in "(a[0-9A-Za-z]{26}|aWgEPT[0-9A-Za-z]{21}|[0-9A-Za-z]{26,28})") {
            prop_assert_eq!(matches(&TOKEN_PATTERN, &text), text.parse::<Token>().is_ok(), "{}", text);
        }

        #[test]
        fn the_pattern_of_starts_is_what_a_feed_may_start_at(
            text in "(now|snapshot:[a-z0-9-]{0,65}|g[0-9]{0,20}:[0-9]{0,20}(:[0-9a-g]{7,9})?|2026-0[0-9]-[0-9]{2}|a[0-9A-Za-z]{26})"
        ) {
            let RefOr::T(Schema::Object(schema)) = FeedStartText::schema() else { panic!("not an object") };
            let pattern = Regex::new(&schema.pattern.unwrap()).unwrap();
            prop_assert_eq!(pattern.is_match(&text), FeedStartText::parse(&text).is_some(), "{}", text);
        }

        #[test]
        fn the_pattern_of_what_is_counted_is_what_is_read(
            text in "( |,|kind|time|payload\\.|descriptor\\.a|payload\\.b c|\u{85}|\0|x){0,9}",
            more in 0usize..13,
        ) {
            let text = format!("{text}{}", ",payload.n".repeat(more));
            let RefOr::T(Schema::Object(schema)) = CountedNames::schema() else { panic!("not an object") };
            let pattern = Regex::new(&schema.pattern.unwrap()).unwrap();
            prop_assert_eq!(pattern.is_match(&text), CountedNames::parse(&text).is_some(), "{:?}", text);
        }

        #[test]
        fn the_pattern_of_names_is_what_a_list_may_be(text in "( |,|late|expired|lat){0,6}") {
            let RefOr::T(Schema::Object(schema)) = OutcomeNames::schema() else { panic!("not an object") };
            let pattern = Regex::new(&schema.pattern.unwrap()).unwrap();
            prop_assert_eq!(pattern.is_match(&text), OutcomeNames::parse(&text).is_some(), "{}", text);
        }
    }
}
