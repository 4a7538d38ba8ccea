//! The vectors in `docs/protocol/vectors` and this implementation agree, in both directions.
//!
//! `frames.json`, `chunks.json`, `errors.json` and `bodies.json` are written from the tables here
//! when `PLUGBUS_BLESS=1`, and compared otherwise. `by-hand.json` and `names.json` are only ever
//! compared: they were written without this implementation.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail as the test does")]

mod bodies;
mod chunks;
mod engine;
mod errors;
mod frames;
mod meaning;
mod value;

use std::collections::BTreeSet;
use std::path::PathBuf;

use plugbus::error::{Code, Fault};
use plugbus::id::{
    ChannelName, MethodName, Pattern, PluginId, Topic, parse_channel_address, parse_method_address,
};
use plugbus::wire::{Kind, scan_frame};

use crate::errors::PAYLOAD_MAX;
use crate::value::Value;

#[test]
fn frames_are_as_written() {
    let vectors = frames::cases()
        .iter()
        .map(|case| {
            let frame = scan_frame(&case.bytes, case.payload_max.unwrap_or(PAYLOAD_MAX))
                .unwrap()
                .expect("a whole frame");
            case.to_value(meaning::describe(&frame))
        })
        .collect();
    compare_or_bless("frames.json", &frames::file(vectors));
}

#[test]
fn chunks_are_as_written() {
    let vectors = chunks::cases().iter().map(chunks::ChunkCase::to_value).collect();
    compare_or_bless("chunks.json", &frames::file(vectors));
}

#[test]
fn errors_are_as_written() {
    let vectors = errors::cases().iter().map(errors::ErrorCase::to_value).collect();
    compare_or_bless("errors.json", &frames::file(vectors));
}

#[test]
fn bodies_are_as_written() {
    let vectors = bodies::cases().iter().map(bodies::BodyCase::to_value).collect();
    compare_or_bless("bodies.json", &frames::file(vectors));
}

/// Both ways: the bytes mean what the vector says, and what it says gives the bytes.
#[test]
fn frames_and_meanings_convert_both_ways() {
    for file in ["frames.json", "by-hand.json"] {
        for vector in read(file).list("vectors") {
            let (name, bytes) = (vector.text("name"), vector.bytes("bytes"));
            let wanted = vector.get("frame").expect("a frame vector has a frame");
            let frame = scan_frame(&bytes, payload_max(vector)).unwrap().expect("a whole frame");
            assert_eq!(&meaning::describe(&frame), wanted, "{file}: {name}");
            assert_eq!(meaning::build(wanted), bytes, "{file}: {name}");
        }
    }
}

/// Every cut of every good frame: nothing before the last byte, the frame with it, and the same
/// when more follows.
#[test]
fn every_cut_of_every_frame_waits_for_the_rest() {
    for file in ["frames.json", "by-hand.json"] {
        for vector in read(file).list("vectors") {
            let bytes = vector.bytes("bytes");
            let payload_max = payload_max(vector);
            for size in 0..bytes.len() {
                let outcome = scan_frame(&bytes[..size], payload_max);
                assert!(matches!(outcome, Ok(None)), "{}: {size} bytes", vector.text("name"));
            }
            let more = [&bytes[..], &bytes[..]].concat();
            for size in bytes.len()..=more.len() {
                let frame = scan_frame(&more[..size], payload_max).unwrap().expect("a whole frame");
                assert_eq!(frame.bytes(), bytes, "{}: {size} bytes", vector.text("name"));
            }
        }
    }
}

/// Every cut of every error: fewer bytes are either not enough yet or the same error, and an error
/// that has come does not go away when more bytes come.
#[test]
fn every_cut_of_every_error_gives_the_same_error() {
    for vector in read("errors.json").list("vectors") {
        let (name, stage) = (vector.text("name"), vector.text("stage"));
        let bytes = vector.bytes("bytes");
        let mut found = None;
        for size in 0..=bytes.len() {
            let outcome = errors::judge(stage, &bytes[..size], payload_max(vector));
            let code = outcome.err().map(|fault| fault.code as u64);
            assert!(found.is_none() || code == found, "{name}: {size} bytes gave {code:?}");
            found = code;
        }
        assert_eq!(found, Some(vector.count("error")), "{name}");
    }
}

/// The codec and the engine judge alike: what is wrong with a frame is what its sender is told.
#[test]
fn the_engine_answers_with_the_same_error() {
    let mut count = 0;
    for vector in read("errors.json").list("vectors") {
        if ["body", "name", "unpack", "session"].contains(&vector.text("stage")) {
            let codes = engine::answers(&vector.bytes("bytes"));
            assert_eq!(codes, [vector.count("error")], "{}", vector.text("name"));
            count += 1;
        }
    }
    for vector in read("frames.json").list("vectors") {
        if vector.get("answer").is_some() {
            let codes = engine::answers(&vector.bytes("bytes"));
            assert_eq!(codes, [vector.count("answer")], "{}", vector.text("name"));
            count += 1;
        }
    }
    assert!(count > 40, "only {count} vectors were tried");
}

#[test]
fn bodies_keep_what_they_mean() {
    for vector in read("bodies.json").list("vectors") {
        let (name, of, bytes) = (vector.text("name"), vector.text("of"), vector.bytes("bytes"));
        let value = vector.get("value").expect("a body vector has a value");
        assert_eq!(&Value::parse_msgpack(&bytes), value, "{name}");
        let again = bodies::recode(of, &bytes).unwrap();
        match vector.get("means") {
            Some(means) => assert_eq!(&Value::parse_msgpack(&again), means, "{name}"),
            None => {
                assert_eq!(value.to_msgpack(), bytes, "{name}: the value gives the bytes");
                assert_eq!(again, bytes, "{name}: the typed body gives the bytes");
            }
        }
    }
}

#[test]
fn chunks_join_or_are_refused() {
    for vector in read("chunks.json").list("vectors") {
        chunks::check(vector);
    }
}

#[test]
fn names_are_judged_as_written() {
    type Judge = fn(&str) -> Result<(), Fault>;
    let judges: [(&str, Judge); 7] = [
        ("plugin", |name| PluginId::parse(name).map(drop)),
        ("method", |name| MethodName::parse(name).map(drop)),
        ("channel", |name| ChannelName::parse(name).map(drop)),
        ("topic", |name| Topic::parse(name).map(drop)),
        ("pattern", |name| Pattern::parse(name).map(drop)),
        ("method_address", |name| parse_method_address(name).map(drop)),
        ("channel_address", |name| parse_channel_address(name).map(drop)),
    ];
    let names = read("names.json");
    for (what, judge) in judges {
        let lists = names.get(what).expect("every grammar has vectors");
        for name in lists.list("valid") {
            assert_eq!(judge(name.as_text()), Ok(()), "{what} {name:?}");
        }
        for name in lists.list("invalid") {
            let code = judge(name.as_text()).map_err(|fault| fault.code);
            assert_eq!(code, Err(Code::BadName), "{what} {name:?}");
        }
    }
    for topic in names.list("reserved_topics") {
        assert!(Topic::parse(topic.as_text()).unwrap().is_reserved(), "{topic:?}");
    }
    for case in names.list("matches") {
        let pattern = Pattern::parse(case.text("pattern")).unwrap();
        for (key, matches) in [("topics", true), ("not", false)] {
            for topic in case.list(key) {
                let topic = Topic::parse(topic.as_text()).unwrap();
                assert_eq!(pattern.matches(&topic), matches, "{pattern} {topic}");
            }
        }
    }
}

/// A type, code or error without a vector would be one that no SDK is held to.
#[test]
fn nothing_is_left_out() {
    let kinds = |file: &str| -> BTreeSet<Kind> {
        read(file)
            .list("vectors")
            .iter()
            .map(|vector| meaning::parse_kind(vector.get("frame").unwrap().get("type").unwrap()))
            .collect()
    };
    for &kind in Kind::ALL {
        assert!(kinds("frames.json").contains(&kind), "frames.json has no {kind}");
        assert!(kinds("by-hand.json").contains(&kind), "by-hand.json has no {kind}");
    }
    let errors: BTreeSet<u64> = ["errors.json", "chunks.json"]
        .iter()
        .flat_map(|file| read(file).list("vectors").to_vec())
        .filter(|vector| vector.get("error").is_some())
        .map(|vector| vector.count("error"))
        .collect();
    for code in [
        Code::BadDialect,
        Code::ReservedBits,
        Code::TooLarge,
        Code::BadChecksum,
        Code::Malformed,
        Code::BadName,
        Code::BadVersion,
        Code::UnknownType,
        Code::ForgedSession,
        Code::UnknownRoute,
        Code::Unexpected,
        Code::NoSuchCall,
        Code::Unsupported,
        Code::IdInUse,
        Code::NotFound,
        Code::Denied,
    ] {
        assert!(errors.contains(&(code as u64)), "no vector gives {}", code.name());
    }
    for file in ["frames.json", "chunks.json", "errors.json", "bodies.json", "by-hand.json"] {
        let mut names = BTreeSet::new();
        for vector in read(file).list("vectors") {
            assert!(names.insert(vector.text("name").to_owned()), "{file}: two of one name");
        }
    }
}

fn payload_max(vector: &Value) -> u32 {
    match vector.get("payload_max") {
        Some(_) => u32::try_from(vector.count("payload_max")).unwrap(),
        None => PAYLOAD_MAX,
    }
}

#[track_caller]
fn compare_or_bless(file: &str, wanted: &Value) {
    let wanted = wanted.to_json();
    if std::env::var_os("PLUGBUS_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(path(file), &wanted).unwrap();
    }
    let found = std::fs::read_to_string(path(file)).unwrap_or_default();
    if let Some((number, (wanted, found))) = wanted
        .lines()
        .zip(found.lines().chain(std::iter::repeat("")))
        .enumerate()
        .find(|(_, (wanted, found))| wanted != found)
    {
        panic!(
            "{file}, line {}: wanted\n{wanted}\nfound\n{found}\n(PLUGBUS_BLESS=1 writes it anew)",
            number + 1
        );
    }
    assert_eq!(found.len(), wanted.len(), "{file} goes on after its end");
}

#[track_caller]
fn read(file: &str) -> Value {
    Value::parse_json(&std::fs::read_to_string(path(file)).unwrap())
}

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/protocol/vectors").join(file)
}
