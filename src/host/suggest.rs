//! "Did you mean …": the known name closest to one that is not known.

/// The closest of `known`, if it is close enough to be what was meant.
pub(crate) fn suggest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance_max = (name.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| {
            *distance <= distance_max || (name.len() >= 3 && candidate.starts_with(name))
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// `; did you mean …?`, or nothing.
pub(crate) fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    suggest(name, known).map_or_else(String::new, |found| format!("; did you mean `{found}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        let known = ["command", "dir", "env"];
        let cases = [
            ("comand", Some("command")),
            ("commnad", Some("command")),
            ("com", Some("command")),
            ("dri", Some("dir")),
            ("path", None),
            ("", None),
        ];
        for (name, expected) in cases {
            assert_eq!(suggest(name, known), expected, "{name}");
        }
    }
}
