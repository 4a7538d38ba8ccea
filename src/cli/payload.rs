//! What `publish`, `broadcast` and `send` carry: words made into a payload.

use serde_json::Value;

use super::arguments;
use super::failure::{Failure, Result};

/// The words of a command line as one value: nothing is null, `key=value` pairs are a map, one word
/// is JSON where it reads as JSON, else text.
pub(crate) fn from_words(words: &[String]) -> Result<Value> {
    match words {
        [] => Ok(Value::Null),
        [word] if !is_pair(word) => {
            Ok(serde_json::from_str(word).unwrap_or_else(|_| Value::String(word.clone())))
        }
        _ => arguments::convert(words, None).map(Value::Object).map_err(Failure::usage),
    }
}

/// `key=value` with a key that looks like one; text may contain `=` too.
fn is_pair(word: &str) -> bool {
    word.split_once('=').is_some_and(|(key, _)| {
        !key.is_empty() && key.bytes().all(|it| it.is_ascii_alphanumeric() || b"_-".contains(&it))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_become_the_value_that_they_look_like() {
        let cases: &[(&[&str], Value)] = &[
            (&[], json!(null)),
            (&["42"], json!(42)),
            (&["hello world"], json!("hello world")),
            (&["if a = b"], json!("if a = b")),
            (&["{\"a\":1}"], json!({"a": 1})),
            (&["[1,2]"], json!([1, 2])),
            (&["{broken"], json!("{broken")),
            (&["a=1"], json!({"a": 1})),
            (&["a=1", "b=x"], json!({"a": 1, "b": "x"})),
        ];
        for (words, expected) in cases {
            let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
            assert_eq!(from_words(&words).unwrap(), *expected, "{words:?}");
        }
    }
}
