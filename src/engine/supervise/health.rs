//! Whether a child that runs is well.
//!
//! The driver calls [`Health::handle_tick`] once in a period with what it measured, and sends a
//! ping after it. Everything that can be measured is a number, also how often in a row a ping, the
//! child's own health method or a command of the user failed. A [`Rule`] says from which number on,
//! and for how long, something has to be done; a finding is given once, and again when it is over.
//!
//! What it does not do: measure, ask or kill. [`Verdict::Restart`] becomes
//! [`Report::Hung`](super::Report::Hung).

use std::fmt;
use std::time::Duration;

/// What can be measured of a child. Adding one means adding its unit here.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Measure {
    /// Pings in a row that were not answered within a period.
    MissedPings,
    /// Ticks in a row that found it without a session, after it had one.
    MissingSession,
    /// Age of the oldest delivery without an answer, in milliseconds.
    OldestUnanswered,
    /// Resident memory, in bytes.
    Memory,
    /// Processor time used in the last period, in percent of one core.
    Processor,
    /// Open descriptors.
    Descriptors,
    /// How often in a row its health method said that it is not well, or did not answer.
    Method,
    /// How often in a row this one of the user's commands failed, by its place in the list.
    Command(u16),
}

impl Measure {
    /// Whether it counts what the child leaves undone. While the observer itself was late, that
    /// says nothing about the child.
    fn is_silence(self) -> bool {
        matches!(
            self,
            Self::MissedPings
                | Self::MissingSession
                | Self::OldestUnanswered
                | Self::Method
                | Self::Command(_)
        )
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissedPings => f.write_str("missed pings"),
            Self::MissingSession => f.write_str("looks that found no session"),
            Self::OldestUnanswered => f.write_str("age of the oldest unanswered delivery in ms"),
            Self::Memory => f.write_str("memory in bytes"),
            Self::Processor => f.write_str("processor use in percent"),
            Self::Descriptors => f.write_str("open descriptors"),
            Self::Method => f.write_str("failures of the health method"),
            Self::Command(place) => write!(f, "failures of health command {}", place + 1),
        }
    }
}

/// From when on a measure is too high, and what follows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rule {
    /// What is looked at.
    pub measure: Measure,
    /// Too high from here on.
    pub above: u64,
    /// Well again from here down. Less than `above`, so that a value that goes up and down around
    /// one of them does not give a finding each time.
    pub below: u64,
    /// How long it has to be too high; a zero means at once.
    pub lasting: Duration,
    /// What follows.
    pub verdict: Verdict,
}

impl Rule {
    /// At once from `above` on, and well again below it.
    #[must_use]
    pub fn new(measure: Measure, above: u64, verdict: Verdict) -> Self {
        Self { measure, above, below: above.saturating_sub(1), lasting: Duration::ZERO, verdict }
    }

    /// Three pings in a row, three failures of the health method: restart. A minute without an
    /// answer: alert, because an answer may take long.
    #[must_use]
    pub fn defaults() -> Vec<Self> {
        vec![
            Self::new(Measure::MissedPings, 3, Verdict::Restart),
            Self::new(Measure::OldestUnanswered, 60_000, Verdict::Alert),
            Self::new(Measure::Method, 3, Verdict::Restart),
        ]
    }
}

/// What follows when a measure is too high.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Somebody is told.
    Alert,
    /// The child is killed and restarted, as if it had crashed.
    Restart,
}

/// What a tick found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Finding {
    /// The rule that says so.
    pub rule: Rule,
    /// The number that was measured.
    pub value: u64,
    /// Whether it is well again, instead of too high.
    pub is_over: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rule { measure, above, below, lasting, .. } = self.rule;
        let value = self.value;
        if self.is_over {
            return write!(f, "{measure}: {value}, at most {below} again");
        }
        write!(f, "{measure}: {value}, which is {above} or more")?;
        if !lasting.is_zero() {
            write!(f, " for {} s", lasting.as_secs_f32())?;
        }
        Ok(())
    }
}

/// Watches one incarnation.
#[derive(Debug)]
pub struct Health {
    period: Duration,
    rules: Box<[Watched]>,
    ticked_at: Duration,
    is_pinged: bool,
    missed: u32,
}

#[derive(Debug)]
struct Watched {
    rule: Rule,
    high_since: Option<Duration>,
    is_found: bool,
}

impl Health {
    /// Starts at the moment when the incarnation got ready.
    #[must_use]
    pub fn new(period: Duration, rules: Vec<Rule>, now: Duration) -> Self {
        let watch = |rule| Watched { rule, high_since: None, is_found: false };
        Self {
            period,
            rules: rules.into_iter().map(watch).collect(),
            ticked_at: now,
            is_pinged: false,
            missed: 0,
        }
    }

    /// When the next tick is due.
    #[must_use]
    pub fn next_tick(&self) -> Duration {
        self.ticked_at.saturating_add(self.period)
    }

    /// It answered a ping, or said anything else.
    pub fn handle_alive(&mut self) {
        self.is_pinged = false;
        self.missed = 0;
    }

    /// Judges what was measured since the last tick; what is not in `sample` is not judged. The
    /// driver pings the child next.
    ///
    /// A tick that comes late by more than a period says that the observer did not run: what the
    /// child left undone meanwhile is forgiven this time, and the gap does not count as lasting.
    pub fn handle_tick(&mut self, now: Duration, sample: &[(Measure, u64)]) -> Vec<Finding> {
        let gap = now.saturating_sub(self.next_tick());
        let is_late = gap > self.period;
        self.ticked_at = now;
        if self.is_pinged && !is_late {
            self.missed += 1;
        }
        self.is_pinged = true;
        let pings = (Measure::MissedPings, u64::from(self.missed));
        let mut findings = Vec::new();
        for watched in &mut self.rules {
            if is_late {
                watched.high_since = watched.high_since.map(|since| since.saturating_add(gap));
                if watched.rule.measure.is_silence() {
                    continue;
                }
            }
            let measure = watched.rule.measure;
            for (_, value) in sample.iter().chain([&pings]).filter(|(one, _)| *one == measure) {
                findings.extend(watched.judge(now, *value));
            }
        }
        findings
    }
}

impl Watched {
    fn judge(&mut self, now: Duration, value: u64) -> Option<Finding> {
        let rule = self.rule;
        if self.is_found {
            if value <= rule.below {
                self.is_found = false;
                self.high_since = None;
                return Some(Finding { rule, value, is_over: true });
            }
            return None;
        }
        if value < rule.above {
            self.high_since = None;
            return None;
        }
        let since = *self.high_since.get_or_insert(now);
        if now.saturating_sub(since) < rule.lasting {
            return None;
        }
        self.is_found = true;
        Some(Finding { rule, value, is_over: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn watch(rules: Vec<Rule>) -> Health {
        Health::new(at(5), rules, at(0))
    }

    /// The seconds of the ticks that found something, among ticks every 5 s.
    fn found(health: &mut Health, measure: Measure, values: &[u64]) -> Vec<(u64, bool)> {
        let mut seen = Vec::new();
        for (index, &value) in values.iter().enumerate() {
            let now = at(5 * (index as u64 + 1));
            let findings = health.handle_tick(now, &[(measure, value)]);
            seen.extend(findings.iter().map(|finding| (now.as_secs(), finding.is_over)));
        }
        seen
    }

    #[test]
    fn the_third_missed_ping_is_too_many() {
        let mut health = watch(Rule::defaults());
        // The first tick only sends a ping.
        for second in [5, 10, 15] {
            assert_eq!(health.handle_tick(at(second), &[]), []);
        }
        let findings = health.handle_tick(at(20), &[]);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].rule.verdict, Verdict::Restart);
        assert_eq!(findings[0].to_string(), "missed pings: 3, which is 3 or more");
    }

    #[test]
    fn an_answer_starts_the_count_again() {
        let mut health = watch(Rule::defaults());
        for second in 1..100 {
            assert_eq!(health.handle_tick(at(5 * second), &[]), []);
            if second % 3 == 0 {
                health.handle_alive();
            }
        }
    }

    /// After a suspension the pongs of all plugins are still unread when the tick comes.
    #[test]
    fn a_suspended_machine_kills_nobody() {
        let mut health = watch(Rule::defaults());
        for second in [5, 10, 15] {
            assert_eq!(health.handle_tick(at(second), &[]), []);
        }
        let age = (Measure::OldestUnanswered, 3_600_000);
        assert_eq!(health.handle_tick(at(3_600), &[age]), []);
        health.handle_alive();
        assert_eq!(health.handle_tick(at(3_605), &[]), []);
        // One that really hangs is found a period later.
        let mut health = watch(vec![Rule::new(Measure::MissedPings, 1, Verdict::Restart)]);
        assert_eq!(health.handle_tick(at(5), &[]), []);
        assert_eq!(health.handle_tick(at(3_600), &[]), []);
        assert_eq!(health.handle_tick(at(3_605), &[]).len(), 1);
    }

    #[test]
    fn a_session_that_ended_before_a_suspension_may_come_back() {
        let mut health = watch(vec![Rule::new(Measure::MissingSession, 2, Verdict::Restart)]);
        assert_eq!(health.handle_tick(at(5), &[(Measure::MissingSession, 1)]), []);
        assert_eq!(health.handle_tick(at(3_600), &[(Measure::MissingSession, 2)]), []);
        assert_eq!(health.handle_tick(at(3_605), &[(Measure::MissingSession, 3)]).len(), 1);
    }

    #[test]
    fn what_swings_around_the_threshold_is_said_once() {
        let rule = Rule { below: 80, ..Rule::new(Measure::Memory, 100, Verdict::Alert) };
        let values = [90, 100, 99, 101, 81, 100, 80, 99, 100];
        let seen = found(&mut watch(vec![rule]), Measure::Memory, &values);
        assert_eq!(seen, [(10, false), (35, true), (45, false)]);
    }

    #[test]
    fn a_short_peak_is_not_lasting() {
        let rule = Rule::new(Measure::Processor, 90, Verdict::Alert);
        let rule = Rule { lasting: at(10), ..rule };
        let values = [95, 95, 10, 95, 95, 95, 95];
        let seen = found(&mut watch(vec![rule]), Measure::Processor, &values);
        assert_eq!(seen, [(30, false)]);
    }

    /// A machine that slept for an hour has not been busy for an hour.
    #[test]
    fn a_gap_does_not_count_as_lasting() {
        let rule = Rule::new(Measure::Processor, 90, Verdict::Restart);
        let mut health = watch(vec![Rule { lasting: at(60), ..rule }]);
        let sample = [(Measure::Processor, 95)];
        assert_eq!(health.handle_tick(at(5), &sample), []);
        assert_eq!(health.handle_tick(at(3_600), &sample), []);
        assert_eq!(health.handle_tick(at(3_605), &sample), []);
    }

    #[test]
    fn each_command_has_its_own_rule() {
        let rule = Rule::new(Measure::Command(1), 2, Verdict::Restart);
        let mut health = watch(vec![rule]);
        assert_eq!(health.handle_tick(at(5), &[(Measure::Command(0), 9)]), []);
        let findings = health.handle_tick(at(10), &[(Measure::Command(1), 2)]);
        assert_eq!(findings[0].to_string(), "failures of health command 2: 2, which is 2 or more");
    }
}
