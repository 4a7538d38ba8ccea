//! The sending side of a channel, a topic or a broadcast: numbering, and the window.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use crate::error::Fault;
use crate::limit;
use crate::wire::body::Credit;

/// What was sent on one route and is not settled.
///
/// Invariant: `sizes[n]` is the payload of message `settled + 1 + n`, or `None` if that one is
/// settled out of turn; `count` and `bytes` are the sums over the others.
#[derive(Debug)]
pub(super) struct ChannelOut {
    window: Credit,
    settled: u64,
    sizes: VecDeque<Option<u32>>,
    count: u64,
    bytes: u64,
    accepted: u64,
    completed: u64,
    rejecting: Option<Rejecting>,
}

/// The broker refused a message; everything behind it in flight will be refused too, because the
/// numbers no longer fit. Sending goes on when the last of those refusals is here.
#[derive(Debug)]
struct Rejecting {
    first: u64,
    last: u64,
    fault: Fault,
}

impl ChannelOut {
    pub(super) fn new(messages: Option<u64>, bytes: Option<u64>) -> Self {
        Self {
            window: Credit {
                messages: messages.unwrap_or(limit::WINDOW_MESSAGES),
                bytes: bytes.unwrap_or(limit::WINDOW_BYTES),
            },
            settled: 0,
            sizes: VecDeque::new(),
            count: 0,
            bytes: 0,
            accepted: 0,
            completed: 0,
            rejecting: None,
        }
    }

    /// The number of the next message, if the window lets it start.
    #[inline]
    pub(super) fn next(&self) -> Option<u64> {
        let open = self.count < self.window.messages
            && self.bytes < self.window.bytes
            && self.rejecting.is_none();
        open.then(|| self.last() + 1)
    }

    /// Notes that the message numbered by [`next`](Self::next) is on its way.
    #[inline]
    pub(super) fn sent(&mut self, size: u64) {
        let size = u32::try_from(size).expect("a message is at most `message_max`");
        self.sizes.push_back(Some(size));
        self.count += 1;
        self.bytes += u64::from(size);
    }

    /// The broker's acknowledgement; both numbers only grow. False when it acknowledges what was
    /// never sent.
    pub(super) fn ack(&mut self, accepted: u64, completed: u64) -> bool {
        if accepted > self.last() || completed > self.last() {
            return false;
        }
        self.accepted = self.accepted.max(accepted);
        self.completed = self.completed.max(completed);
        while self.settled < self.completed {
            let size = self.sizes.pop_front().expect("`completed` is at most the last id sent");
            self.settle(size);
            self.settled += 1;
        }
        self.advance();
        true
    }

    /// The broker gave these up. Ids that are settled already or were never sent do not count.
    pub(super) fn give_up(&mut self, ids: RangeInclusive<u64>) {
        let first = (*ids.start()).max(self.settled + 1);
        let last = (*ids.end()).min(self.last());
        for id in first..=last {
            let size = self.sizes[(id - self.settled - 1) as usize].take();
            self.settle(size);
        }
        self.advance();
    }

    /// The broker did not accept `id`. Gives the range that has to be reported as not sent once
    /// the last refusal is here.
    pub(super) fn reject(&mut self, id: u64, fault: Fault) -> Option<(u64, u64, Fault)> {
        let last = self.last();
        if id <= self.settled || id > last {
            return None;
        }
        let rejecting = self.rejecting.get_or_insert(Rejecting { first: id, last, fault });
        if id < rejecting.last {
            return None;
        }
        let Rejecting { first, last, fault } = self.rejecting.take().expect("it was set above");
        while self.last() >= first {
            let size = self.sizes.pop_back().expect("`first` is not settled");
            self.settle(size);
        }
        Some((first, last, fault))
    }

    pub(super) fn set_window(&mut self, window: Credit) {
        self.window = window;
    }

    /// Highest id accepted, highest id completed, ids sent.
    pub(super) fn progress(&self) -> Progress {
        Progress {
            sent: self.last(),
            accepted: self.accepted,
            completed: self.completed,
            unsettled: self.count,
        }
    }

    fn last(&self) -> u64 {
        self.settled + self.sizes.len() as u64
    }

    #[inline]
    fn settle(&mut self, size: Option<u32>) {
        if let Some(size) = size {
            self.count -= 1;
            self.bytes -= u64::from(size);
        }
    }

    fn advance(&mut self) {
        while let Some(None) = self.sizes.front() {
            self.sizes.pop_front();
            self.settled += 1;
        }
    }
}

/// How far a sender's messages on one route are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Progress {
    /// Highest id sent.
    pub sent: u64,
    /// The broker answers for all up to this id.
    pub accepted: u64,
    /// All up to this id have been handled.
    pub completed: u64,
    /// Messages neither completed nor given up.
    pub unsettled: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn a_message_may_start_while_the_window_is_not_used_up() {
        let mut channel = ChannelOut::new(Some(3), Some(10));
        assert_eq!(channel.next(), Some(1));
        channel.sent(9);
        assert_eq!(channel.next(), Some(2), "one byte is left, so that one of any size fits");
        channel.sent(1_000_000);
        assert_eq!(channel.next(), None);
        assert!(channel.ack(2, 1));
        assert_eq!(channel.next(), None, "accepted is not settled");
        assert!(channel.ack(2, 2));
        for _ in 0..3 {
            assert!(channel.next().is_some());
            channel.sent(0);
        }
        assert_eq!(channel.next(), None, "three messages are the window");
        assert_eq!(channel.progress().sent, 5);
    }

    #[test]
    fn what_is_given_up_out_of_turn_counts_as_settled_once() {
        let mut channel = ChannelOut::new(Some(4), Some(100));
        (0..4).for_each(|_| channel.sent(10));
        channel.give_up(2..=3);
        assert_eq!(channel.progress().unsettled, 2);
        channel.give_up(3..=9);
        assert_eq!(channel.progress().unsettled, 1, "4 too; 5 to 9 were never sent");
        assert_eq!(channel.next(), Some(5));
        assert!(channel.ack(4, 4));
        assert_eq!(channel.progress().unsettled, 0);
        assert_eq!((channel.bytes, channel.sizes.len()), (0, 0));
        assert!(!channel.ack(5, 5), "5 was never sent");
    }

    #[test]
    fn refused_messages_are_reported_together_and_their_numbers_used_again() {
        let mut channel = ChannelOut::new(Some(9), Some(100));
        (0..5).for_each(|_| channel.sent(10));
        assert!(channel.ack(2, 1));
        let fault = Fault::new(Code::CreditOverrun, "3 is too much");
        assert_eq!(channel.reject(3, fault.clone()), None);
        assert_eq!(channel.next(), None, "4 and 5 are refused next");
        assert_eq!(channel.reject(4, Fault::new(Code::OutOfSequence, "4")), None);
        let reported = channel.reject(5, Fault::new(Code::OutOfSequence, "5"));
        assert_eq!(reported, Some((3, 5, fault)));
        assert_eq!(channel.next(), Some(3));
        assert_eq!(channel.progress().unsettled, 1);
    }
}
