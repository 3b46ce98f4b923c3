//! Text as the words that are indexed and searched.
//!
//! Words are compared without case, accents and Unicode form: *Ärger*, *ARGER* and *a* with a combining mark are one word.
//! [`fold`] says what is folded. Chinese, Japanese and Korean text (CJK) has no spaces between words: its characters are indexed
//! in pairs that overlap (bigrams), and each alone. A query asks for the pairs, which are rarer, and for a character only if it stands alone.

use std::ops::Range;

use tantivy::tokenizer::{
    AsciiFoldingFilter, Language, LowerCaser, RemoveLongFilter, Stemmer, TextAnalyzer, TextAnalyzerBuilder, Token,
    TokenStream, Tokenizer, TokenizerManager,
};
use unicode_normalization::{UnicodeNormalization as _, char::is_combining_mark};

/// Longest word that is indexed: long enough for a SHA-512 in hexadecimal digits.
pub(crate) const MAX_WORD_BYTES: usize = 128;
/// Words as they are, folded.
pub(crate) const WORDS: &str = "words";
/// English words by their stem.
pub(crate) const ENGLISH: &str = "english";

/// The analyzers that the schema names, as they index.
pub(crate) fn tokenizers() -> TokenizerManager {
    analyzers(CharacterTerms::PairsAndSingles)
}

/// The same analyzers, as they read queries.
pub(crate) fn query_tokenizers() -> TokenizerManager {
    analyzers(CharacterTerms::Pairs)
}

/// Whether a word of `text` is too long to be indexed.
pub(crate) fn has_long_word(text: &str) -> bool {
    let mut words = WordTokenizer::new(CharacterTerms::Pairs);
    let mut words = words.token_stream(text);
    while words.advance() {
        if words.token().text.len() > MAX_WORD_BYTES {
            return true;
        }
    }
    false
}

fn analyzers(characters: CharacterTerms) -> TokenizerManager {
    let manager = TokenizerManager::default();
    manager.register(WORDS, words(characters).build());
    manager.register(ENGLISH, words(characters).filter(Stemmer::new(Language::English)).build());
    manager
}

fn words(characters: CharacterTerms) -> TextAnalyzerBuilder<impl Tokenizer> {
    TextAnalyzer::builder(WordTokenizer::new(characters))
        // It removes what has as many bytes as its limit.
        .filter(RemoveLongFilter::limit(MAX_WORD_BYTES + 1))
        // Letters that Unicode does not take apart, such as æ and ø.
        .filter(AsciiFoldingFilter)
        .filter(LowerCaser)
}

/// What becomes of a run of Chinese, Japanese or Korean characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CharacterTerms {
    /// Its pairs and each of its characters.
    PairsAndSingles,
    /// Its pairs; the character, if it is only one.
    Pairs,
}

/// Splits text at what is neither letter, digit nor mark, and runs of characters that are words by themselves into pairs.
#[derive(Clone)]
struct WordTokenizer {
    characters: CharacterTerms,
    folded: String,
    terms: Vec<WordTerm>,
    units: Vec<Range<usize>>,
    token: Token,
}

/// One word of a text.
#[derive(Clone, Debug)]
struct WordTerm {
    bytes: Range<usize>,
    position: usize,
}

/// The words of one text. Offsets of tokens are those in the folded text.
struct WordTokenStream<'a> {
    text: &'a str,
    terms: std::slice::Iter<'a, WordTerm>,
    token: &'a mut Token,
}

impl WordTokenizer {
    fn new(characters: CharacterTerms) -> Self {
        let (folded, terms, units, token) = (String::new(), Vec::new(), Vec::new(), Token::default());
        Self { characters, folded, terms, units, token }
    }
}

impl Tokenizer for WordTokenizer {
    type TokenStream<'a> = WordTokenStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> WordTokenStream<'a> {
        let Self { characters, folded, terms, units, token } = self;
        terms.clear();
        token.reset();
        let text = if text.is_ascii() {
            split_ascii(text, terms);
            text
        } else {
            folded.clear();
            fold(text, folded);
            split(folded, *characters, units, terms);
            folded.as_str()
        };
        WordTokenStream { text, terms: terms.iter(), token }
    }
}

impl TokenStream for WordTokenStream<'_> {
    fn advance(&mut self) -> bool {
        let Some(term) = self.terms.next() else { return false };
        self.token.text.clear();
        self.token.text.push_str(&self.text[term.bytes.clone()]);
        (self.token.offset_from, self.token.offset_to) = (term.bytes.start, term.bytes.end);
        self.token.position = term.position;
        true
    }

    fn token(&self) -> &Token {
        self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        self.token
    }
}

fn split_ascii(text: &str, terms: &mut Vec<WordTerm>) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(start) = bytes[at..].iter().position(u8::is_ascii_alphanumeric).map(|skipped| at + skipped) {
        let len = bytes[start..].iter().position(|byte| !byte.is_ascii_alphanumeric());
        at = len.map_or(bytes.len(), |len| start + len);
        terms.push(WordTerm { bytes: start..at, position: terms.len() });
    }
}

/// `units` is scratch memory.
fn split(text: &str, characters: CharacterTerms, units: &mut Vec<Range<usize>>, terms: &mut Vec<WordTerm>) {
    let mut position = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((start, first)) = chars.next() {
        if !first.is_alphanumeric() {
            continue;
        }
        let paired = is_paired(first);
        units.clear();
        let mut end = start + first.len_utf8();
        let mut unit = start;
        while let Some((at, next)) = chars.peek().copied() {
            let mark = is_combining_mark(next);
            if !mark && (!next.is_alphanumeric() || is_paired(next) != paired) {
                break;
            }
            if paired && !mark {
                units.push(unit..at);
                unit = at;
            }
            end = at + next.len_utf8();
            chars.next();
        }
        if paired {
            units.push(unit..end);
            push_run(units, characters, position, terms);
            position += units.len();
        } else {
            terms.push(WordTerm { bytes: start..end, position });
            position += 1;
        }
    }
}

/// Each character has a position, so that a phrase of pairs means neighbours.
fn push_run(units: &[Range<usize>], characters: CharacterTerms, position: usize, terms: &mut Vec<WordTerm>) {
    let singles = characters == CharacterTerms::PairsAndSingles || units.len() == 1;
    for (number, unit) in units.iter().enumerate() {
        let position = position + number;
        if singles {
            terms.push(WordTerm { bytes: unit.clone(), position });
        }
        if let Some(next) = units.get(number + 1) {
            terms.push(WordTerm { bytes: unit.start..next.end, position });
        }
    }
}

/// Whether the character belongs to a script that writes words without spaces and is indexed in pairs.
pub(crate) fn is_paired(char: char) -> bool {
    matches!(char,
        '\u{1100}'..='\u{11ff}' // Hangul Jamo
        | '\u{3005}'..='\u{3007}' // Ideographic iteration mark, closing mark and zero
        | '\u{3031}'..='\u{3035}' // Kana repeat marks
        | '\u{303b}'..='\u{303c}'
        | '\u{3041}'..='\u{312f}' // Hiragana, Katakana, Bopomofo
        | '\u{31a0}'..='\u{31ff}' // Bopomofo and Katakana extensions
        | '\u{3400}'..='\u{4dbf}' // Han, extension A
        | '\u{4e00}'..='\u{9fff}' // Han
        | '\u{a960}'..='\u{a97f}' // Hangul Jamo, extended
        | '\u{ac00}'..='\u{d7fb}' // Hangul syllables
        | '\u{f900}'..='\u{faff}' // Han, compatibility
        | '\u{1aff0}'..='\u{1b16f}' // Kana extensions
        | '\u{20000}'..='\u{3ffff}') // Han, further extensions
}

/// Appends `text` without differences of case, accents and Unicode form to `folded`.
///
/// It is taken apart by compatibility (NFKD), brought to lower case by way of upper case, which makes `ß` `ss` and `ς` `σ`,
/// freed from accents, and put together again (NFC). Latin, Greek, Cyrillic, Hebrew and Arabic lose accents and vowel points,
/// with one exception: a Cyrillic letter with a breve, such as `й`, is a letter of its own. `ё` is found as `е`, and the four
/// letters i of Turkish are one. The marks of other scripts, such as the voiced sounds of Kana and the vowels of Devanagari,
/// are kept.
fn fold(text: &str, folded: &mut String) {
    let chars = text.nfkd().filter(|char| !is_ignorable(*char));
    // First to lower case, because the capital sharp s has no other upper case.
    let lower = chars.flat_map(char::to_lowercase).flat_map(char::to_uppercase).flat_map(char::to_lowercase);
    let mut base = ' ';
    let without_accents = lower.nfkd().filter(|char| {
        if !is_accent(*char) {
            base = *char;
            return true;
        }
        *char == BREVE && is_cyrillic(base)
    });
    folded.extend(without_accents.nfc());
}

const BREVE: char = '\u{306}';

fn is_cyrillic(char: char) -> bool {
    matches!(char, '\u{400}'..='\u{52f}')
}

/// Marks that people leave out.
fn is_accent(char: char) -> bool {
    matches!(char,
        '\u{300}'..='\u{36f}' // Accents of Latin, Greek and Cyrillic
        | '\u{483}'..='\u{487}' // Cyrillic
        | '\u{591}'..='\u{5bd}' | '\u{5bf}' | '\u{5c1}' | '\u{5c2}' | '\u{5c4}' | '\u{5c5}' | '\u{5c7}' // Hebrew points
        | '\u{610}'..='\u{61a}' | '\u{64b}'..='\u{65f}' | '\u{670}' | '\u{8ca}'..='\u{8ff}' // Arabic vowel signs
        | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}' | '\u{fe20}'..='\u{fe2f}')
}

/// Whether a character is part of a word.
pub(crate) fn is_word_char(char: char) -> bool {
    char.is_alphanumeric() || is_word_mark(char)
}

/// Whether a character belongs to the one before it, be that of a pair or not: a mark, or one that folding leaves out.
pub(crate) fn is_word_mark(char: char) -> bool {
    is_combining_mark(char) || is_ignorable(char)
}

/// Invisible characters within words: soft hyphens, joiners, variation selectors, and the Arabic dash that stretches words.
fn is_ignorable(char: char) -> bool {
    matches!(char,
        '\u{ad}' | '\u{640}' | '\u{180b}'..='\u{180d}' | '\u{200c}' | '\u{200d}' | '\u{2060}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{e0100}'..='\u{e01ef}')
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    fn terms_of(manager: &TokenizerManager, name: &str, text: &str) -> Vec<(usize, String)> {
        let mut analyzer = manager.get(name).unwrap();
        let mut stream = analyzer.token_stream(text);
        let mut found = Vec::new();
        stream.process(&mut |token| found.push((token.position, token.text.clone())));
        found
    }

    fn indexed(text: &str) -> Vec<(usize, String)> {
        terms_of(&tokenizers(), WORDS, text)
    }

    fn asked(text: &str) -> Vec<(usize, String)> {
        terms_of(&query_tokenizers(), WORDS, text)
    }

    fn words_of(text: &str) -> Vec<String> {
        asked(text).into_iter().map(|(_, word)| word).collect()
    }

    /// Whether a phrase of what `query` becomes matches `text`, as an index decides it.
    fn is_found(query: &str, text: &str) -> bool {
        let (indexed, asked) = (indexed(text), asked(query));
        let starts = (0..=indexed.last().map_or(0, |last| last.0)).collect::<Vec<_>>();
        let at = |start: usize, (position, term): &(usize, String)| indexed.contains(&(start + position, term.clone()));
        !asked.is_empty() && starts.iter().any(|start| asked.iter().all(|term| at(*start, term)))
    }

    #[test]
    fn words_in_any_form_are_one() {
        for (forms, folded) in [
            (vec!["Ärger", "ÄRGER", "a\u{308}rger", "arger"], "arger"),
            (vec!["Straße", "STRASSE", "STRA\u{1e9e}E", "strasse"], "strasse"),
            (vec!["İstanbul", "ISTANBUL", "ıstanbul", "istanbul"], "istanbul"),
            (vec!["ΟΔΟΣ", "οδός", "Οδος"], "οδοσ"),
            (vec!["Ёлка", "ЁЛКА", "елка", "е\u{308}лка"], "елка"),
            (vec!["мой", "МОЙ", "мои\u{306}"], "мой"),
            (vec!["ＦＵＬＬ", "full"], "full"),
            (vec!["ﬁle", "file", "FILE"], "file"),
            (vec!["Ærø", "AERO", "ærø"], "aero"),
            (vec!["Łódź", "lodz"], "lodz"),
            (vec!["naïve", "nai\u{ad}ve", "NAIVE"], "naive"),
            (vec!["שָׁלוֹם", "שלום"], "שלום"),
            (vec!["مُحَمَّد", "محمد"], "محمد"),
            (vec!["Việt", "viet"], "viet"),
        ] {
            for form in forms {
                assert_eq!(words_of(form), [folded], "{form}");
            }
        }
    }

    #[test]
    fn marks_that_tell_words_apart_stay() {
        assert_ne!(words_of("мой"), words_of("мои"));
        assert_ne!(words_of("か"), words_of("が"));
        assert_eq!(words_of("か\u{3099}"), words_of("が"));
        assert_eq!(words_of("ｶﾞ"), words_of("ガ"));
        assert_eq!(words_of("हिन्दी"), ["हिन्दी"], "a word is not split at its marks");
        assert_eq!(words_of("ไทย"), ["ไทย"]);
        assert_eq!(words_of("\u{1112}\u{1161}\u{11ab}"), words_of("한"));
    }

    #[test]
    fn characters_are_indexed_in_pairs_and_alone() {
        let term = |(position, text): (usize, &str)| (position, text.to_owned());
        let wanted = [(0, "東"), (0, "東京"), (1, "京"), (1, "京都"), (2, "都"), (3, "no1"), (4, "駅")];
        assert_eq!(indexed("東京都 No1駅"), wanted.map(term));
        assert_eq!(asked("東京都 No1駅"), [(0, "東京"), (1, "京都"), (3, "no1"), (4, "駅")].map(term));
        assert!(is_found("京", "東京都") && is_found("京都", "東京都"));
        assert!(!is_found("東都", "東京都"), "they are no neighbours");
        assert!(is_found("スカイツリー", "東京スカイツリーの夜"));
    }

    #[test]
    fn english_is_stemmed_after_it_is_folded() {
        let stems = |text| terms_of(&tokenizers(), ENGLISH, text);
        assert_eq!(stems("fixing FIXES fixed fix"), [0, 1, 2, 3].map(|position| (position, "fix".to_owned())));
        assert_eq!(stems("Résumés"), stems("resume"));
    }

    #[test]
    fn ascii_is_split_as_other_text_is() {
        let text = "Release 7.1-rc2 of v2_models, by (Ada)";
        let (mut units, mut terms, mut ascii) = (Vec::new(), Vec::new(), Vec::new());
        split(text, CharacterTerms::Pairs, &mut units, &mut terms);
        split_ascii(text, &mut ascii);
        let shown = |terms: &[WordTerm]| terms.iter().map(|t| (t.position, t.bytes.clone())).collect::<Vec<_>>();
        assert_eq!(shown(&terms), shown(&ascii));
        assert_eq!(words_of(text), ["release", "7", "1", "rc2", "of", "v2", "models", "by", "ada"]);
        assert!(words_of(&"x".repeat(129)).is_empty() && has_long_word(&format!("a {}", "x".repeat(129))));
        assert!(words_of(&"x".repeat(128)).len() == 1 && !has_long_word(&format!("a {}", "x".repeat(128))));
    }

    fn paired() -> impl Strategy<Value = char> {
        prop_oneof![
            prop::char::range('\u{4e00}', '\u{9fff}'),
            prop::char::range('\u{20000}', '\u{2a6df}'),
            prop::char::range('\u{3041}', '\u{3096}'),
            prop::char::range('\u{30a1}', '\u{30fa}'),
            prop::char::range('\u{ac00}', '\u{d7a3}'),
            select(vec!['東', '京', '々', 'ー', '〇', 'の']),
        ]
    }

    proptest! {
        #[test]
        fn any_part_of_a_text_in_characters_finds_it(text in vec(paired(), 1..30), before in "[a-z ]{0,9}", from: prop::sample::Index, len: prop::sample::Index) {
            let from = from.index(text.len());
            let len = 1 + len.index(text.len() - from);
            let part: String = text[from..from + len].iter().collect();
            let text = before + &text.iter().collect::<String>() + ", end";
            prop_assert!(is_found(&part, &text), "{part} in {text}");
        }

        #[test]
        fn folding_twice_is_folding_once(text in "\\PC{0,20}") {
            let (mut once, mut twice) = (String::new(), String::new());
            fold(&text, &mut once);
            fold(&once, &mut twice);
            prop_assert_eq!(&once, &twice);
            let words = words_of(&text).join(" ");
            prop_assert_eq!(words_of(&words).join(" "), words);
        }

        #[test]
        fn case_and_form_do_not_matter(text in "[\\p{Latin}\\p{Greek}\\p{Cyrillic}\\p{Hangul}\\p{Katakana}\\p{Arabic} ]{0,20}") {
            let words = words_of(&text);
            // Taken apart first: a Greek iota below a letter becomes one beside it, before or after other marks.
            prop_assert_eq!(words_of(&text.nfd().collect::<String>().to_uppercase()), words.clone());
            prop_assert_eq!(words_of(&text.to_lowercase()), words.clone());
            prop_assert_eq!(words_of(&text.nfc().collect::<String>()), words.clone());
            prop_assert_eq!(words_of(&text.nfd().collect::<String>()), words.clone());
            prop_assert_eq!(words_of(&text.nfkc().collect::<String>()), words.clone());
            prop_assert_eq!(words_of(&text.nfkd().collect::<String>()), words);
        }

        #[test]
        fn what_is_indexed_is_what_is_asked_for(text in "\\PC{0,20}") {
            let indexed = indexed(&text);
            prop_assert!(asked(&text).iter().all(|term| indexed.contains(term)));
            prop_assert!(indexed.is_sorted_by_key(|term| term.0), "positions ascend");
        }
    }
}
