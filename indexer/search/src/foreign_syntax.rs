//! What people bring from SQL, Kibana, GitHub, Gmail and word processors, and what is no syntax here. As text it would find nothing,
//! or the opposite of what is meant, so it is refused with what to write instead.
//!
//! Only forms that are hardly ever text are looked for: those beside the name of a field, and signs directly before a word.

use super::query_tree::{LeafValue, QueryLeaf, QueryNode, QueryRefusal, typed_word};

/// Why something is refused, and how many characters ahead it begins.
pub(crate) type ForeignForm = (usize, String);

/// What stands between the bounds of a range in other languages.
const RANGE_WORDS: [&str; 8] = ["to", "until", "through", "..", "...", "-", "–", "—"];
/// What follows a time of day in other languages.
const ZONE_WORDS: [&str; 6] = ["utc", "gmt", "z", "am", "pm", "o'clock"];
/// What follows a size in other languages.
const UNIT_WORDS: [&str; 10] = ["b", "bytes", "kb", "mb", "gb", "tb", "kib", "mib", "gib", "tib"];

/// The fields of words: what stands in them is text, also after a number.
pub(crate) const WORD_FIELDS: [&str; 7] = ["contributors", "files", "message", "names", "path", "reason", "text"];

/// Whether a character is blank: white space, or an invisible one that comes along when text is copied.
pub(crate) fn is_blank(char: char) -> bool {
    char.is_whitespace()
        || matches!(char, '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether a character is a double quote, or what word processors make of one.
pub(crate) fn is_double_quote(char: char) -> bool {
    matches!(char, '"' | '“' | '”' | '„' | '‟' | '«' | '»' | '＂')
}

/// What word processors make of a minus, and the minus of mathematics.
fn is_dash(char: char) -> bool {
    matches!(char, '‐' | '‑' | '‒' | '–' | '—' | '−' | '﹣' | '－')
}

fn is_single_quote(char: char) -> bool {
    matches!(char, '\'' | '‘' | '’' | '`')
}

/// Whether something to search for begins so.
fn begins_operand(char: char) -> bool {
    char.is_alphanumeric() || is_double_quote(char) || is_single_quote(char) || "([*".contains(char)
}

fn count_blanks(text: &[char]) -> usize {
    text.iter().take_while(|char| is_blank(**char)).count()
}

/// The text up to a blank or bracket.
fn first_word(text: &[char]) -> String {
    text.iter().take_while(|char| !is_blank(**char) && !"()[]".contains(**char)).collect()
}

/// What follows `len` characters and the blanks after them.
fn after(text: &[char], len: usize) -> &[char] {
    let rest = &text[len.min(text.len())..];
    &rest[count_blanks(rest)..]
}

/// A sign for *not* of another language, directly before what is searched for.
pub(crate) fn sign(ahead: &[char]) -> Option<String> {
    let [sign, next, ..] = ahead else { return None };
    let is_not = *sign == '!' || is_dash(*sign);
    (is_not && begins_operand(*next))
        .then(|| format!("\"{sign}\" is no sign here; \"-\" before a word or \"(\" means not"))
}

/// The first character of the value that is compared by a sign other than a colon: after `author` that of ` = ada`.
pub(crate) fn compared_value(rest: &[char]) -> Option<char> {
    let operator = &rest[count_blanks(rest)..];
    let signs = operator.iter().take_while(|char| "=<>!~≠≤≥".contains(**char)).count();
    after(operator, signs).first().filter(|_| signs > 0).copied()
}

/// `kind = bundle`, `size > 5`, `repo in (a, b)`: a comparison of the field `name`, after which `rest` stands.
pub(crate) fn comparison(name: &str, rest: &[char]) -> Option<ForeignForm> {
    let blanks = count_blanks(rest);
    let rest = &rest[blanks..];
    let signs: String = rest.iter().take_while(|char| ":=<>!~≠≤≥".contains(**char)).collect();
    let written = if signs.is_empty() {
        if blanks == 0 {
            return None;
        }
        comparison_in_words(name, rest)?
    } else {
        let operand = after(rest, signs.chars().count()).first()?;
        if !(begins_operand(*operand) || "-+.".contains(*operand)) {
            return None;
        }
        match signs.as_str() {
            ":" if blanks > 0 => format!("{name}:value, without a blank before the colon"),
            "=" | "==" | "===" | "~" | "=~" => format!("{name}:value"),
            "!=" | "!==" | "<>" | "!~" | "≠" => format!("-{name}:value"),
            "≤" => format!("{name}:<=value"),
            "≥" => format!("{name}:>=value"),
            "<" | "<=" | ">" | ">=" => format!("{name}:{signs}value"),
            _ => return None,
        }
    };
    Some((blanks, format!("this is written {written}")))
}

fn comparison_in_words(name: &str, rest: &[char]) -> Option<String> {
    let word = first_word(rest);
    let operand = after(rest, word.chars().count());
    let first = *operand.first()?;
    Some(match word.as_str() {
        "in" | "In" | "IN" if "([".contains(first) => format!("{name}: IN [a b]"),
        "IN" if begins_operand(first) => format!("{name}: IN [a b]"),
        "NOT" if ["in", "IN"].contains(&first_word(operand).as_str()) => format!("-{name}: IN [a b]"),
        "not" if "([".contains(*after(operand.strip_prefix(&['i', 'n'])?, 0).first()?) => format!("-{name}: IN [a b]"),
        "LIKE" | "ILIKE" => format!("{name}:begin*"),
        "BETWEEN" => format!("{name}:[a TO b]"),
        "CONTAINS" | "MATCHES" | "EQUALS" => format!("{name}:value"),
        "IS" if first_word(operand) == "NULL" => format!("-{name}:*"),
        "IS" => format!("{name}:value, and {name}:* for any"),
        _ => return None,
    })
}

/// A value of the field `name` that begins with what is a sign in other languages.
pub(crate) fn value(name: &str, ahead: &[char]) -> Option<String> {
    let first = *ahead.first()?;
    let next = ahead.get(1).copied().filter(|next| !is_blank(*next));
    let is_negated = match first {
        '-' | '+' | '~' => next.is_some_and(|next| begins_operand(next) && !next.is_numeric()),
        _ => is_dash(first) && next.is_some_and(begins_operand),
    };
    let written = match first {
        '=' | ':' => format!("a value is written {name}:value"),
        '≠' => format!("all others are written -{name}:value"),
        '≤' | '≥' => format!("a comparison is written {name}:<=value or {name}:>=value"),
        '!' if next.is_some_and(|next| next != '!') => format!("all others are written -{name}:value"),
        '-' if is_negated => format!("all others are written -{name}:value"),
        _ if is_negated => format!("a value is written {name}:value, all others -{name}:value"),
        _ if is_single_quote(first) => format!("only double quotes quote, as in {name}:\"a b\""),
        _ => return unbracketed_set(name, ahead),
    };
    Some(format!("{written}, without \"{first}\" before the value"))
}

/// A set that is not written as one: `IN v1`, `in (a, b)`.
fn unbracketed_set(name: &str, ahead: &[char]) -> Option<String> {
    let word = first_word(ahead);
    let next = after(ahead, word.chars().count()).first();
    let is_set = match word.as_str() {
        "IN" => next.is_some_and(|next| *next != '[' && *next != ')'),
        "in" | "In" => next.is_some_and(|next| "[(".contains(*next)),
        _ => false,
    };
    is_set.then(|| format!("a set is written {name}: IN [a b], in capital letters and square brackets"))
}

/// What goes on after a blank as if it belonged to the value of a field: `time:2026-11-29 09:00`, `size:>=5 <=600`.
/// In the parentheses of a field, where the value has no name before it, comparisons stand beside each other.
pub(crate) fn continuation(value: &[char], ahead: &[char], has_name: bool) -> Option<ForeignForm> {
    let blanks = count_blanks(ahead);
    let next = &ahead[blanks..];
    if blanks == 0 || next.is_empty() {
        return None;
    }
    let word = first_word(next);
    let lower = word.to_lowercase();
    let beyond = after(next, word.chars().count());
    let compared = if ["and", "or", "&&", "||"].contains(&lower.as_str()) { beyond } else { next };
    if has_name
        && matches!(value, ['<' | '>', ..])
        && matches!(compared, ['<' | '>', operand, ..] if *operand == '=' || begins_operand(*operand))
    {
        return Some((blanks, "two comparisons are written in parentheses, as in size:(>=5 <=600)".to_owned()));
    }
    let value: String = value.iter().collect();
    let value = value.trim_start_matches(['<', '>', '=']).trim_matches(is_double_quote);
    let begins_value = |text: &str| text.starts_with(|first: char| first.is_ascii_digit()) || text.starts_with("now");
    let why = if is_day(value) && (is_time_of_day(&word) || ZONE_WORDS.contains(&lower.as_str())) {
        "a time is written without blanks or in quotes, as in \"2026-11-20 10:00\", in UTC or with an offset: 2026-11-20T10:00+01:00"
    } else if value == "now" && word.starts_with(['-', '+']) {
        "a distance from now is written without blanks, as in now-7d"
    } else if begins_value(value) && RANGE_WORDS.contains(&lower.as_str()) && begins_value(&first_word(beyond)) {
        "a range is written [from TO to], as in time:[2026-11 TO 2026-12]"
    } else if value.parse::<f64>().is_ok() && UNIT_WORDS.contains(&lower.as_str()) {
        "numbers have no units; sizes are in bytes, as in size:>1000000"
    } else {
        return None;
    };
    Some((blanks, why.to_owned()))
}

/// Whether a text begins with a day: `2026-11-20`.
fn is_day(text: &str) -> bool {
    has_form(text, "0000-00-00")
}

/// Whether a text begins with a time of day or an offset.
fn is_time_of_day(text: &str) -> bool {
    has_form(text.trim_start_matches(['+', '-', 'T']), "00:00")
}

/// Whether a text begins with digits where `form` has zeros, and with its signs.
fn has_form(text: &str, form: &str) -> bool {
    let mut chars = text.chars();
    form.chars().all(|wanted| {
        chars.next().is_some_and(|char| if wanted == '0' { char.is_ascii_digit() } else { char == wanted })
    })
}

/// A word or sign between fields that is an operator elsewhere: `kind:bundle and repo:models`, `kind:label | kind:bundle`.
pub(crate) fn operator(parts: &[QueryNode]) -> Option<QueryRefusal> {
    parts.iter().enumerate().find_map(|(at, part)| {
        let QueryNode::Leaf(leaf @ QueryLeaf { value: LeafValue::Word(word), .. }) = part else { return None };
        let is_before_field = parts.get(at + 1).is_some_and(QueryNode::has_field);
        let is_beside_field =
            is_before_field || (at > 0 && parts[at - 1].has_field()) || (leaf.field.is_some() && parts.len() > 1);
        let word = typed_word(word);
        let written = match word.to_lowercase().as_str() {
            "and" | "or" | "not" if is_beside_field => {
                "operators are written in capital letters before what they join, as in kind:label OR kind:bundle"
            }
            "|" if at > 0 && at + 1 < parts.len() => "alternatives are written kind:label OR kind:bundle",
            "-" | "!" | "–" | "—" | "−" if is_before_field => {
                "all others are written -kind:repo, without a blank"
            }
            _ => return None,
        };
        Some(leaf.refusal(format!("\"{word}\" is no operator here; {written}; put quotes around it if it is text")))
    })
}

/// A sign directly after what a bracket or quote closes.
pub(crate) fn suffix(ahead: &[char]) -> Option<String> {
    let sign = ahead.first().filter(|sign| "*~^".contains(**sign))?;
    Some(format!(
        "\"{sign}\" has no meaning here: \"*\" and \"~\" belong to a word or to quotes, and \"^\" stands last, once"
    ))
}
