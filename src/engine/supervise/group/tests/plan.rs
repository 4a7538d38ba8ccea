//! Groups that become others while they run.

use super::*;

fn after(id: &str, others: &[&str]) -> ChildSpec {
    ChildSpec { after: others.iter().map(|id| ChildId::from(*id)).collect(), ..plugin(id) }
}

fn reshape(driver: &mut Driver, plan: Plan) -> Result<Answer, Refusal> {
    driver.command(Command::Reshape(plan.into()))
}

fn remove(ids: &[&str]) -> Plan {
    Plan { removed: ids.iter().map(|id| ChildId::from(*id)).collect(), ..Plan::default() }
}

fn renew(specs: Vec<ChildSpec>) -> Plan {
    Plan { renewed: specs, ..Plan::default() }
}

fn add(specs: Vec<ChildSpec>) -> Plan {
    Plan { added: specs, ..Plan::default() }
}

#[test]
fn those_that_need_it_leave_first() {
    let specs = vec![plugin("a"), after("b", &["a"]), after("c", &["b"])];
    let mut driver = up(GroupFlags::plugins(), specs);
    reshape(&mut driver, remove(&["a", "b", "c"])).unwrap();
    driver.expect(&["stop c"]);
    driver.report("c", Report::Exited(Exit::Stopped));
    driver.expect(&["forget c", "stop b"]);
    // One that ends by itself meanwhile does not come back.
    driver.report("a", Report::Exited(Exit::Code(1)));
    driver.expect(&["forget a"]);
    driver.report("b", Report::Exited(Exit::Stopped));
    driver.expect(&["forget b"]);
    assert_eq!(driver.group.children().count(), 0);
}

#[test]
fn who_serves_as_it_was_before_keeps_what_it_needs() {
    let mut driver = up(GroupFlags::plugins(), vec![plugin("a"), after("b", &["a"])]);
    let plan = Plan { renewed: vec![plugin("b")], ..remove(&["a"]) };
    reshape(&mut driver, plan).unwrap();
    driver.expect(&["start b"]);
    let (old, new) = (2, 3);
    driver.report_of("b", new, Report::Ready);
    driver.expect(&["switch b", "stop b"]);
    driver.report_of("b", old, Report::Exited(Exit::Stopped));
    driver.expect(&["stop a"]);
}

#[test]
fn two_may_exchange_who_starts_after_whom() {
    let mut driver = up(GroupFlags::plugins(), vec![plugin("a"), after("b", &["a"])]);
    reshape(&mut driver, renew(vec![after("a", &["b"]), plugin("b")])).unwrap();
    driver.expect(&["start a", "start b"]);
}

#[test]
fn what_does_not_fit_together_changes_nothing() {
    let cases = [
        (remove(&["a"]), "child `b` starts after `a`"),
        (remove(&["x"]), "no child `x`"),
        (renew(vec![after("a", &["b"])]), "wait for each other: a -> b -> a"),
        (renew(vec![plugin("x")]), "no child `x`"),
        (add(vec![plugin("a")]), "two children `a`"),
        (add(vec![after("c", &["x"])]), "after `x`, which is not in its group"),
        (
            Plan { added: vec![after("c", &["b"])], ..remove(&["a", "b"]) },
            "child `c` starts after `b`",
        ),
    ];
    for (plan, reason) in cases {
        let mut driver = up(GroupFlags::plugins(), vec![plugin("a"), after("b", &["a"])]);
        let before: Vec<_> = driver.group.children().map(|child| format!("{child:?}")).collect();
        let refusal = reshape(&mut driver, plan.clone()).unwrap_err().to_string();
        assert!(refusal.contains(reason), "{plan:?}: {refusal}");
        let left: Vec<_> = driver.group.children().map(|child| format!("{child:?}")).collect();
        assert_eq!(left, before, "{plan:?}");
        driver.expect(&[]);
    }
}

#[test]
fn one_that_is_added_while_it_leaves_comes_when_it_has_left() {
    let mut driver = up(GroupFlags::plugins(), vec![plugin("a"), after("b", &["a"])]);
    reshape(&mut driver, remove(&["a", "b"])).unwrap();
    driver.expect(&["stop b"]);
    // It does not wait for those that need it as it was.
    reshape(&mut driver, add(vec![plugin("a")])).unwrap();
    driver.expect(&["stop a"]);
    assert!(reshape(&mut driver, add(vec![plugin("a")])).is_err(), "it comes already");
    assert!(!driver.group.child("a").unwrap().is_leaving);
    driver.report("a", Report::Exited(Exit::Stopped));
    driver.expect(&["forget a", "start a"]);
    // And one that is not to come any more does not.
    driver.command(Command::Add(after("b", &["a"]).into())).unwrap();
    driver.command(Command::Remove("b".into())).unwrap();
    driver.report("b", Report::Exited(Exit::Stopped));
    driver.expect(&["forget b"]);
}

/// Whatever a child is doing, what has changed reaches it.
#[test]
fn a_renewed_child_is_started_anew_in_every_state() {
    for state in State::ALL {
        let mut driver = in_state(state);
        driver.log.clear();
        reshape(&mut driver, renew(vec![ChildSpec { governed: false, ..plugin("p") }])).unwrap();
        match state {
            State::Starting | State::HalfOpen => {
                driver.expect(&["stop p"]);
                driver.report("p", Report::Exited(Exit::Stopped));
                driver.expect(&["start p"]);
            }
            State::Replacing => driver.expect(&["stop p", "start p"]),
            State::Ready
            | State::Busy
            | State::BackingOff
            | State::Failed
            | State::Quarantined
            | State::Disabled => driver.expect(&["start p"]),
            // The next start finds it.
            State::Stopped | State::Sleeping | State::Stopping => driver.expect(&[]),
        }
        let child = driver.group.child("p").unwrap();
        assert_eq!((child.spec.governed, child.failures), (false, 0), "{state}");
    }
}

/// The last failure of what it was before does not disable what it is now.
#[test]
fn one_that_is_killed_for_a_failure_is_forgiven_by_a_change() {
    let mut spec = plugin("p");
    spec.backoff.disable_after = Some(0);
    let mut driver = up(GroupFlags::plugins(), vec![spec.clone()]);
    driver.report("p", Report::Hung("no answer".into()));
    driver.expect(&["kill p"]);
    reshape(&mut driver, renew(vec![spec])).unwrap();
    driver.report("p", Report::Exited(Exit::Signal { number: 9, core: false }));
    driver.expect(&["start p"]);
}

#[test]
fn a_successor_of_what_was_before_is_dropped() {
    let mut driver = up(GroupFlags::plugins(), vec![plugin("p")]);
    driver.command(Command::Replace("p".into())).unwrap();
    driver.expect(&["start p"]);
    reshape(&mut driver, renew(vec![plugin("p")])).unwrap();
    driver.expect(&["stop p", "start p"]);
    driver.report_of("p", 2, Report::Ready);
    driver.expect(&[]);
    driver.report_of("p", 2, Report::Exited(Exit::Stopped));
    assert_eq!(driver.state("p"), State::Replacing, "the first one serves");
    driver.report_of("p", 3, Report::Ready);
    driver.expect(&["switch p", "stop p"]);
    assert_eq!(driver.state("p"), State::Ready);
}

#[test]
fn what_a_person_has_stopped_is_not_started_by_a_change() {
    for state in [State::Stopped, State::Failed, State::Disabled] {
        let mut driver = in_state(state);
        let _already = driver.command(Command::Stop("p".into())).unwrap();
        driver.log.clear();
        reshape(&mut driver, renew(vec![plugin("p")])).unwrap();
        driver.wait(1_000);
        driver.expect(&[]);
        driver.command(Command::Start("p".into())).unwrap();
        driver.expect(&["start p"]);
    }
}

#[test]
fn a_renewed_child_waits_for_what_it_newly_needs() {
    let mut driver = up(GroupFlags::plugins(), vec![plugin("p")]);
    let plan = Plan { added: vec![plugin("new")], ..renew(vec![after("p", &["new"])]) };
    reshape(&mut driver, plan).unwrap();
    driver.expect(&["start new"]);
    driver.report("new", Report::Ready);
    driver.expect(&["start p"]);
    // One that fails is not tried again by itself; the old one goes on.
    driver.report_of("p", 3, Report::Exited(Exit::Code(1)));
    driver.wait(100_000);
    driver.expect(&[]);
    assert_eq!(driver.state("p"), State::Ready);
}

#[test]
fn one_of_those_that_stand_for_a_name_is_enough() {
    let instance = |id: &str| ChildSpec { stands_for: Some("p".into()), ..plugin(id) };
    let specs = vec![instance("p"), instance("p#1"), after("q", &["p"])];
    let mut driver = Driver::new(GroupFlags::plugins(), specs);
    driver.expect(&["up", "start p", "start p#1"]);
    let why = "no such file".into();
    driver.report("p", Report::Exited(Exit::StartFailed { permanent: true, why }));
    driver.report("p#1", Report::Ready);
    driver.expect(&["start q"]);
    driver.report("q", Report::Ready);
    // One of two may go, the last may not.
    driver.command(Command::Remove("p".into())).unwrap();
    driver.expect(&["forget p"]);
    let refusal = driver.command(Command::Remove("p#1".into())).unwrap_err();
    assert_eq!(refusal, Refusal::NeededBy("p#1".into(), "q".into()));
    // They stop after whoever needs them.
    driver.command(Command::ShutDown).unwrap();
    driver.expect(&["stop q"]);
}

#[test]
fn removing_some_of_several_instances_waits_for_nobody() {
    let instance = |id: &str| ChildSpec { stands_for: Some("p".into()), ..plugin(id) };
    let specs = vec![instance("p"), instance("p#1"), after("q", &["p"])];
    let mut driver = up(GroupFlags::plugins(), specs);
    driver.report("q", Report::Ready);
    driver.log.clear();
    reshape(&mut driver, remove(&["p#1"])).unwrap();
    driver.expect(&["stop p#1"]);
}
