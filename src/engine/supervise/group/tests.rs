//! Groups as their drivers see them.

use std::time::Duration;

use super::*;

/// A group whose driver starts and stops children only when the test says so.
struct Driver {
    group: Group,
    governor: Governor,
    now: Duration,
    log: Vec<String>,
}

impl Driver {
    fn new(flags: GroupFlags, specs: Vec<ChildSpec>) -> Self {
        let group = Group::new(flags, specs, 7).unwrap();
        let mut driver =
            Self { group, governor: Governor::default(), now: Duration::ZERO, log: Vec::new() };
        driver.group.start(driver.now, &mut driver.governor);
        driver.collect();
        driver
    }

    fn report(&mut self, id: &str, report: Report) {
        let generation = self.group.child(id).unwrap().generation;
        self.report_of(id, generation, report);
    }

    fn report_of(&mut self, id: &str, generation: u64, report: Report) {
        self.group.handle_report(self.now, &id.into(), generation, report, &mut self.governor);
        self.collect();
    }

    fn command(&mut self, command: Command) -> Result<Answer, Refusal> {
        let answer = self.group.handle_command(self.now, command, &mut self.governor);
        self.collect();
        answer
    }

    fn wait(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        while let Some(at) = self.group.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.group.handle_timeout(self.now, &mut self.governor);
            self.collect();
        }
        self.now = end;
    }

    fn collect(&mut self) {
        while let Some(output) = self.group.poll_output() {
            let line = match output {
                Output::Order(Order::Start { id, .. }) => format!("start {id}"),
                Output::Order(Order::Stop { id, .. }) => format!("stop {id}"),
                Output::Order(Order::Kill { id, .. }) => format!("kill {id}"),
                Output::Order(Order::Switch { id, .. }) => format!("switch {id}"),
                Output::Order(Order::Forget { id }) => format!("forget {id}"),
                Output::Changed(changed) => format!("{} {}", changed.id, changed.to),
                Output::Up => "up".to_owned(),
                Output::Ended(ended) => format!("ended: {}", ended.exit),
            };
            self.log.push(line);
        }
    }

    /// The orders since the last call.
    #[track_caller]
    fn expect(&mut self, lines: &[&str]) {
        let is_order = |line: &String| {
            let words = ["start ", "stop ", "kill ", "switch ", "forget ", "up", "ended"];
            words.iter().any(|word| line.starts_with(word))
        };
        let orders: Vec<String> =
            std::mem::take(&mut self.log).into_iter().filter(is_order).collect();
        assert_eq!(orders, lines);
    }
}

fn three() -> Vec<ChildSpec> {
    ["a", "b", "c"].map(ChildSpec::new).to_vec()
}

#[test]
fn children_start_in_order_and_stop_in_reverse() {
    let mut driver = Driver::new(GroupFlags::core(Strategy::OneForOne), three());
    driver.expect(&["start a"]);
    driver.report("a", Report::Ready);
    driver.expect(&["start b"]);
    driver.report("b", Report::Ready);
    driver.report("c", Report::Ready);
    driver.expect(&["start c", "up"]);
    driver.command(Command::ShutDown).unwrap();
    driver.expect(&["stop c"]);
    driver.report("c", Report::Exited(Exit::Stopped));
    driver.report("b", Report::Exited(Exit::Stopped));
    driver.report("a", Report::Exited(Exit::Stopped));
    driver.expect(&["stop b", "stop a", "ended: stopped as asked"]);
}

#[test]
fn a_child_that_ends_in_a_delay_is_not_waited_for() {
    let mut spec = ChildSpec::plugin("a");
    spec.backoff.jitter_percent = 0;
    let mut driver = Driver::new(GroupFlags::plugins(), vec![spec]);
    driver.report("a", Report::Ready);
    driver.report("a", Report::Exited(Exit::Code(1)));
    driver.expect(&["up", "start a", "start a"]);
    driver.report("a", Report::Exited(Exit::Code(1)));
    driver.wait(999);
    driver.expect(&[]);
    driver.wait(1);
    driver.expect(&["start a"]);
}
