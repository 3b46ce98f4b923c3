//! Reads the text of a query into a tree. The compiler decides what a leaf of it finds.
//!
//! ```text
//! query   = all ("OR" all)*            all = operand ("AND"? operand)*
//! operand = ("NOT" | "-" | "+")* (group | phrase | field value | word)
//! group   = "(" query ")"              field = name ":" with the name of a field
//! value   = group | phrase | word | "[" bound "TO" bound "]" | comparison bound | "IN" "[" element* "]"
//! ```
//!
//! People also type plain text, so whatever cannot be syntax where it stands is a word: an operator without operands, brackets
//! without a field, a colon after what is no field, parentheses within a word. Nothing is left out: what is meant as syntax and
//! is wrong is refused with its position.

use std::{fmt, ops::Bound};

use super::{
    field_names::FieldNames,
    foreign_syntax::{self, is_blank, is_double_quote},
    query_tree::{LeafValue, QueryLeaf, QueryNode, QueryRefusal, WordChar},
};

/// How deep parentheses may be nested.
const MAX_NESTING: usize = 20;
/// How many words, phrases, ranges and elements of sets a query may have.
const MAX_CLAUSES: usize = 200;
/// The most edits of a fuzzy word.
const MAX_EDITS: usize = 2;
/// The largest boost and the largest distance of a phrase's words.
const MAX_FACTOR: u16 = 1000;
/// What to do about text that is taken for syntax.
const QUOTE_IT: &str = "put quotes around text that has special characters";

/// The tree of a query; `None` for one without text.
pub(crate) fn parse_query(text: &str, fields: &FieldNames) -> Result<Option<QueryNode>, QueryRefusal> {
    let chars = text.chars().collect();
    QueryParser { chars, at: 0, fields, clauses: 0, open_in_text: Vec::new() }.query()
}

/// A character and whether a backslash stands before it.
type TypedChar = (char, bool);

struct QueryParser<'a> {
    chars: Vec<char>,
    at: usize,
    fields: &'a FieldNames,
    clauses: usize,
    /// Where parentheses of the text stand that are not closed yet.
    open_in_text: Vec<usize>,
}

impl QueryParser<'_> {
    fn query(mut self) -> Result<Option<QueryNode>, QueryRefusal> {
        self.skip_blanks();
        if self.peek(0).is_none() {
            return Ok(None);
        }
        let node = self.any_of(None, 0)?;
        match (self.open_in_text.first(), self.peek(0)) {
            (Some(open), _) => Err(not_closed(*open, '(')),
            (None, Some(found)) => Err(text_refusal(self.at, format!("\"{found}\" closes nothing"))),
            (None, None) => Ok(Some(node)),
        }
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn skip_blanks(&mut self) {
        // Byte order marks belong to no word.
        while self.peek(0).is_some_and(|char| is_blank(char) || char == '\u{feff}') {
            self.at += 1;
        }
    }

    /// Alternatives, up to the end or to the parenthesis that closes them.
    fn any_of(&mut self, field: Option<&str>, depth: usize) -> Result<QueryNode, QueryRefusal> {
        let (mut alternatives, mut plus) = (Vec::new(), None);
        loop {
            alternatives.push(self.all_of(field, depth, &mut plus)?);
            let or = self.operator_ahead(&["OR", "||"]);
            let Some(len) = or else { break };
            self.at += len;
        }
        match plus {
            Some(at) if alternatives.len() > 1 => Err(refusal(
                at,
                "\"+\" beside OR has no meaning: words are all required unless OR stands between them; use AND and parentheses".to_owned(),
            )),
            _ => Ok(single_or(alternatives, QueryNode::AnyOf)),
        }
    }

    fn all_of(
        &mut self,
        field: Option<&str>,
        depth: usize,
        plus: &mut Option<usize>,
    ) -> Result<QueryNode, QueryRefusal> {
        let mut parts = Vec::new();
        loop {
            self.skip_blanks();
            match self.peek(0) {
                None => break,
                Some(')') if self.open_in_text.is_empty() => break,
                Some(_) if !parts.is_empty() && self.operator_ahead(&["OR", "||"]).is_some() => break,
                Some(_) => {}
            }
            if !parts.is_empty()
                && let Some(len) = self.operator_ahead(&["AND", "&&"])
            {
                self.at += len;
                self.skip_blanks();
            }
            parts.push(self.operand(field, depth, plus)?);
        }
        if let Some(refused) = foreign_syntax::operator(&parts) {
            return Err(refused);
        }
        if parts.is_empty() {
            let why = if depth == 0 { "\")\" closes nothing" } else { "the parentheses are empty" };
            return Err(text_refusal(self.at, why));
        }
        Ok(single_or(parts, QueryNode::AllOf))
    }

    /// The length of an operator that stands here with an operand after it. Without one it is a word.
    fn operator_ahead(&self, names: &[&str]) -> Option<usize> {
        let len =
            names.iter().find(|name| self.chars[self.at..].iter().copied().take(name.len()).eq(name.chars()))?.len();
        let is_word = self.peek(0).is_some_and(char::is_alphabetic);
        let ends = self.peek(len).is_some_and(|next| !is_word || is_blank(next) || next == '(');
        let operand = self.chars[self.at + len..].iter().find(|char| !is_blank(**char));
        (ends && operand.is_some_and(|char| *char != ')')).then_some(len)
    }

    fn operand(
        &mut self,
        field: Option<&str>,
        depth: usize,
        plus: &mut Option<usize>,
    ) -> Result<QueryNode, QueryRefusal> {
        let mut negated = false;
        loop {
            if let Some(why) = foreign_syntax::sign(&self.chars[self.at..]) {
                return Err(text_refusal(self.at, why));
            }
            if let Some(len) = self.operator_ahead(&["NOT"]) {
                self.at += len;
                self.skip_blanks();
                negated = !negated;
            } else if self.is_sign('-') {
                self.at += 1;
                negated = !negated;
            } else if self.is_sign('+') {
                plus.get_or_insert(self.at);
                self.at += 1;
            } else {
                break;
            }
        }
        let node = self.primary(field, depth)?;
        Ok(if negated { QueryNode::Not(Box::new(node)) } else { node })
    }

    /// Whether a sign stands here directly before an operand. `--force`, `->` and `C++` are text.
    fn is_sign(&self, sign: char) -> bool {
        self.peek(0) == Some(sign)
            && self.peek(1).is_some_and(|next| !is_blank(next) && next != sign && !")>=".contains(next))
    }

    fn primary(&mut self, field: Option<&str>, depth: usize) -> Result<QueryNode, QueryRefusal> {
        if self.peek(0) == Some('(') {
            return self.group(field, depth);
        }
        let position = self.at;
        if let Some((name, after)) = self.field_ahead()? {
            self.at = after;
            self.skip_blanks();
            if self.peek(0).is_none() || (self.at > after && self.field_ahead()?.is_some()) {
                return Err(text_refusal(position, format!("the field \"{name}\" has no value")));
            }
            return self.value(&name, position, depth);
        }
        match field {
            Some(name) => self.value(name, position, depth),
            None if self.is_quoted_text() => self.phrase(None, position),
            None => {
                self.check_comparison()?;
                self.word(None, position)
            }
        }
    }

    /// Whether quotes begin here. Those of word processors are text where they are not closed.
    fn is_quoted_text(&self) -> bool {
        match self.peek(0) {
            Some('"') => true,
            Some(open) if is_double_quote(open) => self.chars[self.at + 1..].iter().any(|char| is_double_quote(*char)),
            _ => false,
        }
    }

    /// Refuses `kind = bundle` and `author = ada`.
    fn check_comparison(&self) -> Result<(), QueryRefusal> {
        let ahead = &self.chars[self.at..];
        let len = ahead.iter().take_while(|char| !is_blank(**char) && !":=<>!~()[]\"".contains(**char)).count();
        let name: String = ahead[..len].iter().collect();
        let rest = &ahead[len..];
        match foreign_syntax::comparison(&name, rest) {
            Some((operator, why)) if self.fields.contains(&name) => Err(text_refusal(self.at + len + operator, why)),
            Some(_) => foreign_syntax::compared_value(rest).map_or(Ok(()), |first| self.check_name(&name, first)),
            None => Ok(()),
        }
    }

    fn group(&mut self, field: Option<&str>, depth: usize) -> Result<QueryNode, QueryRefusal> {
        let open = self.at;
        if depth == MAX_NESTING {
            let why = format!("parentheses are nested more than {MAX_NESTING} deep; simplify the query");
            return Err(refusal(open, why));
        }
        self.at += 1;
        let outside = std::mem::take(&mut self.open_in_text);
        self.skip_blanks();
        if self.peek(0).is_none() {
            return Err(not_closed(open, '('));
        }
        let node = self.any_of(field, depth + 1)?;
        if let Some(open) = self.open_in_text.first() {
            return Err(not_closed(*open, '('));
        }
        self.open_in_text = outside;
        if self.peek(0) != Some(')') {
            return Err(not_closed(open, '('));
        }
        self.at += 1;
        let boost = self.boost()?;
        Ok(boosted(node, boost))
    }

    /// Whether what the sign at this place begins ends within a name: `[0]` of `tags[0]:x` does, and of `tags[0] is` does not.
    fn names_on(&self, at: usize, sign: char) -> bool {
        let end = if sign == '[' { ']' } else { sign };
        let inside = self.chars[at + 1..].iter().position(|char| *char == end);
        inside.and_then(|inside| self.chars.get(at + inside + 2)).is_some_and(|next| ":.[".contains(*next))
    }

    /// The field that is named here, and where its value begins.
    fn field_ahead(&self) -> Result<Option<(String, usize)>, QueryRefusal> {
        let mut name = String::new();
        let (mut at, mut wildcard) = (self.at, None);
        loop {
            match self.chars.get(at) {
                Some(':') => break,
                Some(sign @ ('"' | '['))
                    if (name.contains('.') || *sign == '[')
                        && self.names_on(at, *sign)
                        && self.fields.is_path(&name) =>
                {
                    let why = "a blank or a sign in the name of an attribute has a backslash before it, as in payload.attributes.build\\ number:7, and items of arrays have no numbers";
                    return Err(refusal(at, why.to_owned()));
                }
                Some('：') if self.fields.contains(&name) => {
                    let why = format!("a field has the colon of ASCII after it, as in {name}:value");
                    return Err(text_refusal(at, why));
                }
                Some('\\') if let Some(char) = self.escaped(at) => {
                    at += 1;
                    name.push(char);
                }
                Some(char) if !is_blank(*char) && !"()\"[]{}".contains(*char) => {
                    wildcard = wildcard.or_else(|| (*char == '*').then_some(at));
                    name.push(*char);
                }
                _ => return Ok(None),
            }
            at += 1;
        }
        if let Some(at) = wildcard.filter(|_| self.fields.is_path(&name)) {
            let why = "the path of an attribute has no wildcards; bare words search all that an entry says";
            return Err(refusal(at, why.to_owned()));
        }
        if self.fields.contains(&name) {
            return Ok(Some((name, at + 1)));
        }
        let first = self.chars.get(at + 1).filter(|next| !is_blank(**next));
        first.map_or(Ok(None), |first| self.check_name(&name, *first).map(|()| None))
    }

    /// Refuses a name that is no field and not text either, before a value that begins with `first`.
    fn check_name(&self, name: &str, first: char) -> Result<(), QueryRefusal> {
        match self.fields.correction(name, first) {
            Some(instead) => Err(text_refusal(self.at, format!("there is no field \"{name}\"; {instead}"))),
            None => Ok(()),
        }
    }

    /// The sign of which a backslash at this place makes text. Before a letter or digit a backslash is text itself.
    fn escaped(&self, at: usize) -> Option<char> {
        let next = self.chars.get(at + 1).filter(|next| self.chars.get(at) == Some(&'\\') && !next.is_alphanumeric());
        next.copied()
    }

    fn value(&mut self, field: &str, position: usize, depth: usize) -> Result<QueryNode, QueryRefusal> {
        let start = self.at;
        if let Some(why) = foreign_syntax::value(field, &self.chars[start..]) {
            return Err(text_refusal(start, why));
        }
        let value = match self.peek(0) {
            Some('(') => return self.group(Some(field), depth),
            Some(quote) if is_double_quote(quote) => self.phrase(Some(field), position),
            Some('[' | '{') => self.range(field, position),
            Some('<' | '>') => self.comparison(field, position),
            _ if self.is_set() => self.set(field, position),
            _ => self.word(Some(field), position),
        }?;
        let has_name = position < start;
        match foreign_syntax::continuation(&self.chars[start..self.at], &self.chars[self.at..], has_name) {
            // In a field of words what follows is text: `message:(copied 10 GB)`.
            Some((ahead, why)) if !foreign_syntax::WORD_FIELDS.contains(&field) => {
                Err(text_refusal(self.at + ahead, why))
            }
            _ => Ok(value),
        }
    }

    fn leaf(&mut self, field: Option<&str>, position: usize, value: LeafValue) -> Result<QueryNode, QueryRefusal> {
        self.count(position)?;
        Ok(QueryNode::Leaf(QueryLeaf { position: position + 1, field: field.map(str::to_owned), value }))
    }

    fn count(&mut self, position: usize) -> Result<(), QueryRefusal> {
        self.clauses += 1;
        if self.clauses > MAX_CLAUSES {
            let why = format!("the query has too many parts, {MAX_CLAUSES} are taken; use filters for exact values");
            return Err(refusal(position, why));
        }
        Ok(())
    }

    fn phrase(&mut self, field: Option<&str>, position: usize) -> Result<QueryNode, QueryRefusal> {
        let text = self.quoted()?;
        let is_prefix = self.peek(0) == Some('*');
        self.at += usize::from(is_prefix);
        let mut slop = 0;
        if self.peek(0) == Some('~') {
            let at = self.at;
            self.at += 1;
            let digits = self.take_while(|char| char.is_ascii_digit());
            slop = digits
                .parse::<u16>()
                .ok()
                .filter(|slop| *slop <= MAX_FACTOR && !is_prefix)
                .map(u32::from)
                .ok_or_else(|| {
                    refusal(
                        at,
                        format!("\"~\" after a phrase needs a distance from 0 to {MAX_FACTOR}, and none follows \"*\""),
                    )
                })?;
        }
        let boost = self.boost()?;
        let leaf = self.leaf(field, position, LeafValue::Phrase { text, slop, is_prefix })?;
        Ok(boosted(leaf, boost))
    }

    /// The text in the quotes that begin here.
    fn quoted(&mut self) -> Result<String, QueryRefusal> {
        let open = self.at;
        let quote = self.chars[open];
        self.at += 1;
        let mut text = String::new();
        while let Some(char) = self.peek(0) {
            let escaped = self.escaped(self.at);
            self.at += 1 + usize::from(escaped.is_some());
            match (char, escaped) {
                (_, Some(escaped)) => text.push(escaped),
                ('"', _) => return Ok(text),
                // Word processors have several pairs.
                _ if quote != '"' && is_double_quote(char) => return Ok(text),
                _ => text.push(char),
            }
        }
        Err(not_closed(open, quote))
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let mut taken = String::new();
        while let Some(char) = self.peek(0).filter(|char| wanted(*char)) {
            taken.push(char);
            self.at += 1;
        }
        taken
    }

    /// A `^2` after quotes, parentheses or brackets.
    fn boost(&mut self) -> Result<Option<f32>, QueryRefusal> {
        let at = self.at;
        let mut boost = None;
        if self.peek(0) == Some('^') {
            self.at += 1;
            let number = self.take_while(|char| char.is_ascii_digit() || char == '.');
            boost = Some(boost_of(&number).ok_or_else(|| wrong_boost(at))?);
        }
        match foreign_syntax::suffix(&self.chars[self.at..]) {
            Some(why) => Err(text_refusal(self.at, why)),
            None => Ok(boost),
        }
    }

    fn word(&mut self, field: Option<&str>, position: usize) -> Result<QueryNode, QueryRefusal> {
        let start = self.at;
        let mut typed = self.typed_word();
        if typed.is_empty() {
            return Err(text_refusal(position, "there is no value after the colon"));
        }
        if let Some(why) = unsupported(&typed, field.is_some()) {
            return Err(text_refusal(start, why));
        }
        // `2^10` is arithmetic.
        let is_number =
            field.is_none() && typed.iter().copied().take_while(|typed| *typed != ('^', false)).all(is_digit);
        let boost = if is_number { None } else { take_boost(&mut typed, start)? };
        // One after the other they mean what one does.
        typed.dedup_by(|next, before| *next == ('*', false) && *before == *next);
        let value = match take_edits(&mut typed, start)? {
            Some(edits) => {
                if typed.iter().copied().any(is_wildcard) {
                    return Err(refusal(start, "a word has either wildcards or \"~\"; use one of them".to_owned()));
                }
                let word = text_of_typed(&typed);
                if edits == 0 {
                    LeafValue::Phrase { text: word, slop: 0, is_prefix: false }
                } else {
                    LeafValue::Fuzzy { word, edits }
                }
            }
            None if typed == [('*', false)] => LeafValue::Anything,
            // Everything, as Lucene writes it.
            None if field.is_none() && typed == [('*', false), (':', false), ('*', false)] => LeafValue::Anything,
            None if field.is_some()
                && typed.iter().any(|(_, escaped)| *escaped)
                && !typed.iter().copied().any(is_wildcard) =>
            {
                LeafValue::Phrase { text: text_of_typed(&typed), slop: 0, is_prefix: false }
            }
            None => LeafValue::Word(typed.into_iter().map(word_char).collect()),
        };
        let leaf = self.leaf(field, position, value)?;
        Ok(boosted(leaf, boost))
    }

    /// Everything up to a blank, or to a parenthesis that closes what the word has not opened.
    fn typed_word(&mut self) -> Vec<TypedChar> {
        let mut typed = Vec::new();
        while let Some(char) = self.peek(0).filter(|char| !is_blank(*char)) {
            if let Some(escaped) = self.escaped(self.at) {
                typed.push((escaped, true));
                self.at += 2;
                continue;
            }
            match char {
                '(' => self.open_in_text.push(self.at),
                ')' if self.open_in_text.pop().is_none() => break,
                _ => {}
            }
            typed.push((char, false));
            self.at += 1;
        }
        typed
    }

    /// `[a TO b]`
    fn range(&mut self, field: &str, position: usize) -> Result<QueryNode, QueryRefusal> {
        let open = self.at;
        let bracket = self.peek(0).unwrap_or_default();
        let lower_included = bracket == '[';
        self.at += 1;
        let lower = self.bound()?;
        self.skip_blanks();
        let has_to = self.chars[self.at..].starts_with(&['T', 'O']) && self.peek(2).is_some_and(is_blank);
        if !has_to {
            let why = format!("a range is written [from TO to], and there is no \" TO \" here after \"{bracket}\"");
            return Err(text_refusal(self.at.min(self.chars.len().saturating_sub(1)), why));
        }
        self.at += 2;
        let upper = self.bound()?;
        self.skip_blanks();
        let upper_included = match self.peek(0) {
            Some(']') => true,
            Some('}') => false,
            _ => return Err(not_closed(open, bracket)),
        };
        self.at += 1;
        let value = LeafValue::Range { lower: bound_of(lower, lower_included), upper: bound_of(upper, upper_included) };
        let boost = self.boost()?;
        Ok(boosted(self.leaf(Some(field), position, value)?, boost))
    }

    /// A bound of a range; `None` for `*`.
    fn bound(&mut self) -> Result<Option<String>, QueryRefusal> {
        self.skip_blanks();
        if self.peek(0).is_some_and(is_double_quote) {
            return self.quoted().map(Some);
        }
        let at = self.at;
        let text = self.bare_value();
        match text.as_str() {
            "" => {
                Err(text_refusal(at.min(self.chars.len() - 1), "a bound of the range is missing; use \"*\" for none"))
            }
            "*" => Ok(None),
            _ if text.contains('*') => Err(text_refusal(at, "a bound has no wildcards")),
            _ => Ok(Some(text)),
        }
    }

    /// Everything up to a blank or a bracket that closes.
    fn bare_value(&mut self) -> String {
        let mut text = String::new();
        while let Some(char) = self.peek(0).filter(|char| !is_blank(*char) && !"]}".contains(*char)) {
            let escaped = self.escaped(self.at);
            text.push(escaped.unwrap_or(char));
            self.at += 1 + usize::from(escaped.is_some());
        }
        text
    }

    /// `>5`, `>=5`, `<5`, `<=5`
    fn comparison(&mut self, field: &str, position: usize) -> Result<QueryNode, QueryRefusal> {
        let at = self.at;
        let is_lower = self.peek(0) == Some('>');
        let included = self.peek(1) == Some('=');
        self.at += 1 + usize::from(included);
        self.skip_blanks();
        let (text, boost) = if self.peek(0).is_some_and(is_double_quote) {
            (self.quoted()?, self.boost()?)
        } else {
            let start = self.at;
            let mut typed = self.typed_word();
            let boost = take_boost(&mut typed, start)?;
            if let Some(sign) = typed.iter().position(|(char, escaped)| !escaped && "*<>=".contains(*char)) {
                return Err(text_refusal(start + sign, "a comparison is with one value, without wildcards"));
            }
            (text_of_typed(&typed), boost)
        };
        if text.is_empty() {
            return Err(text_refusal(at, "there is nothing to compare with"));
        }
        let bound = bound_of(Some(text), included);
        let (lower, upper) = if is_lower { (bound, Bound::Unbounded) } else { (Bound::Unbounded, bound) };
        Ok(boosted(self.leaf(Some(field), position, LeafValue::Range { lower, upper })?, boost))
    }

    /// Whether `IN [` stands here.
    fn is_set(&self) -> bool {
        let mut rest = self.chars[self.at..].iter();
        rest.next() == Some(&'I') && rest.next() == Some(&'N') && rest.find(|char| !is_blank(**char)) == Some(&'[')
    }

    /// `IN [a b]`
    fn set(&mut self, field: &str, position: usize) -> Result<QueryNode, QueryRefusal> {
        self.at += 2;
        self.skip_blanks();
        let open = self.at;
        self.at += 1;
        let mut elements = Vec::new();
        loop {
            self.skip_blanks();
            let at = self.at;
            match self.peek(0) {
                None => return Err(not_closed(open, '[')),
                Some(']') => break,
                Some(quote) if is_double_quote(quote) => elements.push(self.quoted()?),
                Some(_) => {
                    let element = self.bare_value();
                    if element.is_empty()
                        || element.contains(['*', ',', ';', '|'])
                        || ["TO", "OR", "AND"].contains(&element.as_str())
                    {
                        let why = "the elements of a set are values with blanks between them, as in IN [v1 v2]; use OR for wildcards, and quotes for signs";
                        return Err(refusal(at, why.to_owned()));
                    }
                    elements.push(element);
                }
            }
            self.count(at)?;
        }
        self.at += 1;
        if elements.is_empty() {
            return Err(refusal(open, "the set is empty; name at least one value".to_owned()));
        }
        let boost = self.boost()?;
        Ok(boosted(self.leaf(Some(field), position, LeafValue::Set(elements))?, boost))
    }
}

fn refusal(at: usize, why: String) -> QueryRefusal {
    QueryRefusal { position: at + 1, why }
}

/// The refusal of what may have been meant as text.
fn text_refusal(at: usize, why: impl fmt::Display) -> QueryRefusal {
    refusal(at, format!("{why}; {QUOTE_IT}"))
}

fn not_closed(at: usize, open: char) -> QueryRefusal {
    refusal(at, format!("\"{open}\" is not closed; close it, or {QUOTE_IT}"))
}

fn single_or(mut parts: Vec<QueryNode>, join: impl Fn(Vec<QueryNode>) -> QueryNode) -> QueryNode {
    match parts.len() {
        1 => parts.remove(0),
        _ => join(parts),
    }
}

fn boosted(node: QueryNode, boost: Option<f32>) -> QueryNode {
    match boost {
        Some(boost) => QueryNode::Boosted(Box::new(node), boost),
        None => node,
    }
}

fn bound_of(value: Option<String>, included: bool) -> Bound<String> {
    match value {
        None => Bound::Unbounded,
        Some(value) if included => Bound::Included(value),
        Some(value) => Bound::Excluded(value),
    }
}

fn boost_of(number: &str) -> Option<f32> {
    number.parse().ok().filter(|boost| *boost > 0.0 && *boost <= f32::from(MAX_FACTOR))
}

/// What of a word is meant as syntax that there is not.
fn unsupported(typed: &[TypedChar], is_value: bool) -> Option<&'static str> {
    let has = |chars: &str| typed.iter().any(|(char, escaped)| !escaped && chars.contains(*char));
    let is_regex = typed.len() > 2 && typed.first() == Some(&('/', false)) && typed.last() == Some(&('/', false));
    if is_regex && has("*?+[]|^$") {
        return Some("regular expressions are not supported; use \"*\" and \"?\"");
    }
    let closes = |open, close| has(close) && !has(open);
    (is_value && (closes("[", "]") || closes("{", "}"))).then_some("the bracket closes nothing")
}

/// Removes a `^2` at the end of a word, which begins at `start`. What is no number is text.
fn take_boost(typed: &mut Vec<TypedChar>, start: usize) -> Result<Option<f32>, QueryRefusal> {
    let Some(at) = typed.iter().rposition(|typed| *typed == ('^', false)).filter(|at| *at > 0) else { return Ok(None) };
    let number = text_of_typed(&typed[at + 1..]);
    if number.parse::<f32>().is_err() || !number.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return Ok(None);
    }
    let boost = boost_of(&number).ok_or_else(|| wrong_boost(start + at))?;
    typed.truncate(at);
    Ok(Some(boost))
}

fn wrong_boost(at: usize) -> QueryRefusal {
    text_refusal(at, format!("\"^\" needs a number above 0 and up to {MAX_FACTOR} after it"))
}

/// Removes a `~` or `~1` at the end of a word, which begins at `start`.
fn take_edits(typed: &mut Vec<TypedChar>, start: usize) -> Result<Option<usize>, QueryRefusal> {
    let Some(at) = typed.iter().rposition(|typed| *typed == ('~', false)).filter(|at| *at > 0) else { return Ok(None) };
    let number = text_of_typed(&typed[at + 1..]);
    if !number.chars().all(|char| char.is_ascii_digit() || char == '.') {
        return Ok(None);
    }
    let edits =
        if number.is_empty() { Some(MAX_EDITS) } else { number.parse().ok().filter(|edits| *edits <= MAX_EDITS) };
    let Some(edits) = edits else {
        let why = format!("\"~{number}\" asks for other than 1 to {MAX_EDITS} edits");
        return Err(text_refusal(start + at, why));
    };
    typed.truncate(at);
    Ok(Some(edits))
}

fn is_wildcard(typed: TypedChar) -> bool {
    matches!(typed, ('*' | '?', false))
}

fn is_digit((char, _): TypedChar) -> bool {
    char.is_ascii_digit()
}

fn text_of_typed(typed: &[TypedChar]) -> String {
    typed.iter().map(|(char, _)| char).collect()
}

fn word_char((char, escaped): TypedChar) -> WordChar {
    match (char, escaped) {
        ('*', false) => WordChar::AnyText,
        ('?', false) => WordChar::AnyChar,
        _ => WordChar::Text(char),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Option<QueryNode>, QueryRefusal> {
        let names = ["repo", "label", "text", "size", "time"].map(str::to_owned).to_vec();
        parse_query(text, &FieldNames::new(names, &["payload", "descriptor"]))
    }

    /// A tree as text, fully parenthesised.
    fn shown(node: &QueryNode) -> String {
        let join = |parts: &[QueryNode], between: &str| {
            format!("({})", parts.iter().map(shown).collect::<Vec<_>>().join(between))
        };
        match node {
            QueryNode::AllOf(parts) => join(parts, " & "),
            QueryNode::AnyOf(parts) => join(parts, " | "),
            QueryNode::Not(part) => format!("!{}", shown(part)),
            QueryNode::Boosted(part, boost) => format!("{}^{boost}", shown(part)),
            QueryNode::Leaf(QueryLeaf { field, value, .. }) => {
                let field = field.as_ref().map(|name| format!("{name}=")).unwrap_or_default();
                let bound = |bound: &Bound<String>| match bound {
                    Bound::Included(text) => format!("={text}"),
                    Bound::Excluded(text) => text.clone(),
                    Bound::Unbounded => String::new(),
                };
                match value {
                    LeafValue::Anything => format!("{field}*"),
                    LeafValue::Word(word) => {
                        let char = |part: &WordChar| match part {
                            WordChar::Text(char) => *char,
                            WordChar::AnyText => '%',
                            WordChar::AnyChar => '_',
                        };
                        format!("{field}{}", word.iter().map(char).collect::<String>())
                    }
                    LeafValue::Fuzzy { word, edits } => format!("{field}{word}~{edits}"),
                    LeafValue::Phrase { text, slop, is_prefix } => format!("{field}'{text}'{slop}{is_prefix}"),
                    LeafValue::Range { lower, upper } => format!("{field}{}..{}", bound(lower), bound(upper)),
                    LeafValue::Set(elements) => format!("{field}<{}>", elements.join(",")),
                }
            }
        }
    }

    #[test]
    fn operators_bind_as_people_expect() {
        for (text, wanted) in [
            ("a b", "(a & b)"),
            ("a AND b", "(a & b)"),
            ("a && b", "(a & b)"),
            ("a OR b c", "(a | (b & c))"),
            ("a || b", "(a | b)"),
            ("a AND (b OR c) -d", "(a & (b | c) & !d)"),
            ("NOT a b", "(!a & b)"),
            ("NOT NOT a", "a"),
            ("a OR -b", "(a | !b)"),
            ("+a +b", "(a & b)"),
            ("repo:(a OR b) c", "((repo=a | repo=b) & c)"),
            ("size:(>1 <=5)", "(size=1.. & size=..=5)"),
            ("(a b)^2 c^0.5 \"d e\"^3", "((a & b)^2 & c^0.5 & 'd e'0false^3)"),
            ("payload.a.b:c", "payload.a.b=c"),
            ("payload.a\\ b:c", "payload.a b=c"),
            ("repo: x", "repo=x"),
            ("label: IN [a \"b c\"]", "label=<a,b c>"),
            ("time:[2026-11 TO *}", "time==2026-11.."),
            ("size:{1 TO \"5\"]", "size=1..=5"),
            ("repo:*", "repo=*"),
            ("*", "*"),
            ("te?t mig*", "(te_t & mig%)"),
            ("te\\?t mig\\*", "(te?t & mig*)"),
            ("te**t mig*** **", "(te%t & mig% & *)"),
            ("migraton~1 x~", "(migraton~1 & x~2)"),
            ("\"a b\"~2 \"a b\"*", "('a b'2false & 'a b'0true)"),
            ("\u{201c}a b\u{201d} repo:\u{201e}a b\u{201c}", "('a b'0false & repo='a b'0false)"),
            (r#"repo:a\ b "a\"b\c" \d"#, r#"(repo='a b'0false & 'a"b\c'0false & \d)"#),
            ("size:>5^2 *:*", "(size=5..^2 & *)"),
            ("\u{feff}a\u{200b}b", "(a & b)"),
        ] {
            assert_eq!(read(text).map(|node| shown(&node.unwrap())).as_deref(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_syntax_is_words() {
        for (text, wanted) in [
            ("it's broken", "(it's & broken)"),
            ("OR", "OR"),
            ("this AND", "(this & AND)"),
            ("OR a", "(OR & a)"),
            ("a OR OR b", "(a | (OR & b))"),
            ("IN", "IN"),
            ("NOT", "NOT"),
            ("feat(ui): new", "(feat(ui): & new)"),
            ("feat(ui, api): new", "(feat(ui, & api): & new)"),
            ("[WIP] x", "([WIP] & x)"),
            ("https://example.org/x", "https://example.org/x"),
            ("a:b", "a:b"),
            ("test: add", "(test: & add)"),
            ("git push --force -> x", "(git & push & --force & -> & x)"),
            ("a - b", "(a & - & b)"),
            ("5\"disk", "5\"disk"),
            ("~/x a^b 1~2~x", "(~/x & a^b & 1~2~x)"),
            ("a or b", "(a & or & b)"),
            ("2^10 2^2048 x^2", "(2^10 & 2^2048 & x^2)"),
            ("C:\\Users\\ada", "C:\\Users\\ada"),
            ("a = text >", "(a & = & text & >)"),
            ("a != b => c", "(a & != & b & => & c)"),
            ("a \u{2014} b \u{201c}c !", "(a & \u{2014} & b & \u{201c}c & !)"),
        ] {
            assert_eq!(read(text).map(|node| shown(&node.unwrap())).as_deref(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_names_its_position_and_character() {
        for (text, position, part) in [
            ("repo:(a", 6, "\"(\" is not closed"),
            ("a (b", 3, "\"(\" is not closed"),
            ("a:(b", 3, "\"(\" is not closed"),
            ("a)", 2, "\")\" closes nothing"),
            (")", 1, "\")\" closes nothing"),
            ("a ()", 4, "empty"),
            ("say \"hello", 5, "\" is not closed"),
            ("size:[1 5]", 9, "TO"),
            ("size:[1 TO ]", 12, "missing"),
            ("size:[1 TO 5", 6, "\"[\" is not closed"),
            ("size:>", 6, "nothing to compare"),
            ("label: IN [a", 11, "\"[\" is not closed"),
            ("label: IN []", 11, "empty"),
            ("label: IN [a*]", 12, "wildcards"),
            ("x repo:", 3, "\"repo\" has no value"),
            ("(x repo:)", 4, "no value"),
            ("reop:a", 1, "\"repo\" is one"),
            ("Repo:a", 1, "\"repo\" is one"),
            ("repos:a", 1, "\"repo\" is one"),
            ("attributes.team:a", 1, "\"payload.attributes.team\""),
            ("migr~5", 5, "edits"),
            ("mi*~1", 1, "wildcards"),
            ("\"a b\"~x", 6, "distance"),
            ("\"a b\"^x", 6, "\"^\""),
            ("+a OR b", 1, "\"+\" beside OR"),
            ("x repo:/x.*/", 8, "regular expressions"),
            ("payload.a:x]", 11, "closes nothing"),
            ("Payload.a:x", 1, "\"payload.a\" is one"),
            ("x author:a", 3, "write contributor:"),
            ("repo = x", 6, "repo:value"),
            ("x size>5", 7, "size:>value"),
            ("repo:x or y", 8, "capital letters"),
            ("repo:\u{201c}x", 6, "not closed"),
            ("(a)~1", 4, "no meaning"),
        ] {
            let refused = read(text).unwrap_err();
            assert!(refused.position == position && refused.why.contains(part), "{text}: {refused}");
        }
        assert!(read(&"(".repeat(500)).unwrap_err().why.contains("nested"));
        assert!(read(&"a ".repeat(1000)).unwrap_err().why.contains("too many"));
        assert!(read(&format!("repo: IN [{}]", "a ".repeat(1000))).unwrap_err().why.contains("too many"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        #[test]
        fn any_text_is_read_or_refused_at_a_place_in_it(text in "([\\[\\]{}()\"'+:*?~^\\\\<>=a!,|“”—：\u{feff}\u{200b} -]|repo:|repo|size >|time:2026-11-20| 09:00|now|author:| and | or |OR |TO |IN |NOT |AND |\\PC){0,60}") {
            if let Err(refused) = read(&text) {
                prop_assert!((1..=text.chars().count()).contains(&refused.position), "{}", refused);
            }
        }

        #[test]
        fn words_without_special_characters_are_all_kept(words in prop::collection::vec("[a-z]{1,6}", 1..20)) {
            let wanted = if words.len() == 1 { words[0].clone() } else { format!("({})", words.join(" & ")) };
            prop_assert_eq!(shown(&read(&words.join(" ")).unwrap().unwrap()), wanted);
        }
    }
}
