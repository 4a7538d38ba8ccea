//! A plugin of the demo, in Rust. `peer.py` is the same in Python.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::plugin::{Context, Event, Message, Plugin, Result};

/// Runs the plugin until it is told to stop.
pub(crate) async fn run(id: &str) -> Result<()> {
    let (seen, _) = watch::channel(Seen::default());
    let received = Rc::new(RefCell::new(Received::default()));
    let [news, notices, reported] = std::array::from_fn(|_| seen.clone());
    let taken = Rc::clone(&received);
    let calls = Rc::new(Cell::new(0_u64));
    Plugin::new(id)
        .method("echo", async |Echo { value }: Echo, _: &Context| Ok(value))
        .method("count", async move |(): (), _: &Context| {
            calls.set(calls.get() + 1);
            Ok((std::process::id(), calls.get()))
        })
        .method("report", async move |wanted: Wanted, _: &Context| {
            let mut seen = reported.subscribe();
            let seen = seen
                .wait_for(|it| it.news.len() >= wanted.news && it.notices.len() >= wanted.notices)
                .await?;
            Ok(seen.clone())
        })
        .method("received", async move |(): (), _: &Context| Ok(*received.borrow()))
        .channel("data", async move |message: Message, _: &Context| {
            taken.borrow_mut().take(message.body());
            Ok(())
        })
        .on("demo.news", async move |event: Event, _: &Context| {
            let value = event.parse()?;
            news.send_modify(|it| it.news.push(value));
            Ok(())
        })
        .on("demo.notice", async move |event: Event, _: &Context| {
            let value = event.parse()?;
            notices.send_modify(|it| it.notices.push(value));
            Ok(())
        })
        .run()
        .await
}

/// Gives back what it got.
#[derive(Debug, Deserialize, JsonSchema)]
struct Echo {
    value: i64,
}

/// What was seen so far, once there are at least so many of each.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default)]
#[derive(Default)]
struct Wanted {
    news: usize,
    notices: usize,
}

/// Events, in the order in which they came.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
pub(crate) struct Seen {
    pub(crate) news: Vec<u64>,
    pub(crate) notices: Vec<u64>,
    /// Messages; of the Python one only.
    #[serde(default)]
    pub(crate) tasks: Vec<u64>,
}

/// What came down the channel `data` since the last message with the number 1.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, Serialize)]
pub(crate) struct Received {
    pub(crate) count: u64,
    /// Whether the numbers at the head of the messages were 1, 2, 3 …
    pub(crate) in_order: bool,
}

impl Received {
    fn take(&mut self, body: &[u8]) {
        let number = body.first_chunk().map_or(0, |number| u64::from_le_bytes(*number));
        if number == 1 {
            *self = Self { count: 0, in_order: true };
        }
        self.count += 1;
        self.in_order &= number == self.count;
    }
}

/// The Python one.
pub(crate) const PYTHON: &str = include_str!("peer.py");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_repeated_number_is_seen() {
        let cases: [(&[u64], _); 5] = [
            (&[1, 2, 3], true),
            (&[1, 3], false),
            (&[1, 2, 2], false),
            (&[2], false),
            (&[1, 3, 1, 2], true),
        ];
        for (numbers, expected) in cases {
            let mut received = Received::default();
            numbers.iter().for_each(|number| received.take(&number.to_le_bytes()));
            assert_eq!(received.in_order, expected, "{numbers:?}");
        }
    }
}
