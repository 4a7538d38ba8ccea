//! Commands: each is answered at once, in every state.

use std::time::Duration;

use super::{
    Answer, Cause, Child, ChildId, ChildSpec, Command, Governor, Group, Order, Phase, Refusal,
    State, Step, Then,
};
use crate::engine::supervise::exit::Exit;

type Outcome = Result<Answer, Refusal>;

impl Group {
    /// Takes a command.
    ///
    /// # Errors
    ///
    /// Why it cannot be done. Nothing has changed then.
    pub fn handle_command(
        &mut self,
        now: Duration,
        command: Command,
        governor: &mut Governor,
    ) -> Outcome {
        self.advance(now);
        let answer = self.command(command, governor)?;
        self.turn(governor);
        Ok(answer)
    }

    fn command(&mut self, command: Command, governor: &mut Governor) -> Outcome {
        match (&command, self.phase) {
            (Command::ShutDown, Phase::Stopping | Phase::Ended) => {
                return Ok(Answer::Already(State::Stopping));
            }
            (Command::ShutDown, _) => {
                self.shut_down(Exit::Stopped);
                return Ok(Answer::Accepted);
            }
            // A person in a hurry.
            (Command::Kill(_), Phase::Stopping) => (),
            (_, Phase::Stopping | Phase::Ended) => return Err(Refusal::Ending),
            (Command::Add(_) | Command::Update(_) | Command::Remove(_), Phase::New) => (),
            (_, Phase::New) => return Err(Refusal::NotStarted),
            (_, Phase::Starting | Phase::Running) => (),
        }
        match command {
            Command::Start(id) | Command::Enable(id) => self.start_child(self.find_kept(&id)?),
            Command::Stop(id) => self.stop(self.find_kept(&id)?, governor),
            Command::Kill(id) => self.kill(self.find(&id)?, governor),
            Command::Restart(id) => self.restart(self.find_kept(&id)?, governor),
            Command::Wake(id) => self.wake(self.find_kept(&id)?),
            Command::Sleep(id) => self.sleep(self.find_kept(&id)?, governor),
            Command::Replace(id) => self.replace(self.find_kept(&id)?, governor),
            Command::Remove(id) => self.remove(self.find(&id)?, governor),
            Command::Add(spec) => self.add(*spec),
            Command::Update(spec) => self.update(*spec),
            Command::ShutDown => unreachable!("it was answered above"),
        }
    }

    fn find(&self, id: &ChildId) -> Result<usize, Refusal> {
        self.index(id).ok_or_else(|| Refusal::Unknown(id.clone()))
    }

    /// A child that is not being removed.
    fn find_kept(&self, id: &ChildId) -> Result<usize, Refusal> {
        let index = self.find(id)?;
        let child = &self.children[index];
        if child.then == Then::Remove { Err(in_state(child)) } else { Ok(index) }
    }

    fn start_child(&mut self, index: usize) -> Outcome {
        let child = &mut self.children[index];
        let answer = match child.state {
            State::Starting | State::Ready | State::Busy | State::HalfOpen | State::Replacing => {
                return Ok(Answer::Already(child.state));
            }
            _ if child.is_unkillable() => {
                return Err(Refusal::Unkillable(child.spec.id.clone()));
            }
            State::Stopping if matches!(child.then, Then::Start | Then::Recover) => {
                return Ok(Answer::Already(child.state));
            }
            State::Stopping => {
                child.then = Then::Start;
                child.is_held = false;
                child.why = Cause::Command;
                Answer::Accepted
            }
            State::Stopped if child.is_wanted && child.due <= self.now => {
                Answer::Already(child.state)
            }
            _ => {
                child.want(self.now, Cause::Command);
                Answer::Accepted
            }
        };
        if child.state == State::Quarantined {
            // It is on trial, and goes back if that fails.
            child.failures = 0;
        } else {
            child.forgive();
        }
        self.pull_dependencies(index);
        Ok(answer)
    }

    /// What a started child needs is started too, unless something is wrong with it.
    fn pull_dependencies(&mut self, index: usize) {
        let mut needed = self.children[index].spec.after.clone();
        while let Some(id) = needed.pop() {
            let place = self.index(&id).expect("a dependency is in the group");
            let child = &mut self.children[place];
            if child.state == State::Stopped && !child.is_wanted {
                child.want(self.now, Cause::Demand);
                needed.extend(child.spec.after.iter().cloned());
            }
        }
    }

    fn stop(&mut self, index: usize, governor: &mut Governor) -> Outcome {
        let child = &mut self.children[index];
        let state = child.state;
        let was_wanted = std::mem::take(&mut child.is_wanted);
        child.has_turn = false;
        child.is_held = true;
        if !matches!(state, State::Failed | State::Disabled) {
            child.forgive();
        }
        self.hurry_retired(index, governor);
        let child = &mut self.children[index];
        match state {
            State::Stopped if was_wanted => Ok(Answer::Accepted),
            State::Stopped | State::Failed | State::Disabled => Ok(Answer::Already(state)),
            State::Stopping => {
                let is_rest = matches!(child.then, Then::Rest | Then::Remove);
                if !is_rest {
                    child.then = Then::Rest;
                }
                Ok(if is_rest { Answer::Already(state) } else { Answer::Accepted })
            }
            State::Sleeping | State::BackingOff | State::Quarantined => {
                self.step(index, Step::End, Cause::Command);
                Ok(Answer::Accepted)
            }
            _ => {
                self.stop_child(index, Then::Rest, Cause::Command, governor);
                Ok(Answer::Accepted)
            }
        }
    }

    fn kill(&mut self, index: usize, governor: &mut Governor) -> Outcome {
        let is_gone = self.children[index].is_gone();
        let answer = if self.is_ending() {
            if is_gone {
                return Ok(Answer::Already(self.children[index].state));
            }
            // What is left may also be an incarnation that was replaced.
            let state = self.children[index].state;
            if state.is_running() && state != State::Stopping {
                self.stop_child(index, Then::Rest, Cause::Command, governor);
            }
            Answer::Accepted
        } else {
            self.stop(index, governor)?
        };
        let generations: Vec<u64> =
            self.children[index].incarnations().map(|one| one.generation).collect();
        for generation in generations {
            self.kill_incarnation(index, generation, governor);
        }
        Ok(if is_gone { answer } else { Answer::Accepted })
    }

    fn restart(&mut self, index: usize, governor: &mut Governor) -> Outcome {
        let child = &mut self.children[index];
        match child.state {
            state if state.is_running() && child.is_unkillable() => {
                Err(Refusal::Unkillable(child.spec.id.clone()))
            }
            State::Starting | State::Ready | State::Busy | State::HalfOpen | State::Replacing => {
                child.forgive();
                child.why = Cause::Command;
                self.stop_child(index, Then::Start, Cause::Command, governor);
                Ok(Answer::Accepted)
            }
            _ => self.start_child(index),
        }
    }

    fn wake(&mut self, index: usize) -> Outcome {
        let child = &mut self.children[index];
        match child.state {
            State::Sleeping if child.is_wanted => Ok(Answer::Already(child.state)),
            State::Sleeping => {
                child.want(self.now, Cause::Demand);
                self.pull_dependencies(index);
                Ok(Answer::Accepted)
            }
            State::Stopping if child.then == Then::Sleep => {
                child.then = Then::Start;
                child.why = Cause::Demand;
                Ok(Answer::Accepted)
            }
            State::Stopping if matches!(child.then, Then::Start | Then::Recover) => {
                Ok(Answer::Already(child.state))
            }
            State::Stopped if child.is_wanted => Ok(Answer::Already(child.state)),
            State::Starting
            | State::Ready
            | State::Busy
            | State::HalfOpen
            | State::Replacing
            | State::BackingOff => Ok(Answer::Already(child.state)),
            _ => Err(in_state(child)),
        }
    }

    fn sleep(&mut self, index: usize, governor: &mut Governor) -> Outcome {
        let child = &mut self.children[index];
        match child.state {
            State::Sleeping if child.is_wanted => {
                child.is_wanted = false;
                Ok(Answer::Accepted)
            }
            State::Sleeping => Ok(Answer::Already(child.state)),
            State::Stopping if child.then == Then::Sleep => Ok(Answer::Already(child.state)),
            State::Stopped => {
                child.is_wanted = false;
                child.is_held = false;
                child.has_turn = false;
                self.step(index, Step::Doze, Cause::Command);
                Ok(Answer::Accepted)
            }
            State::Ready => {
                child.has_turn = false;
                self.stop_child(index, Then::Sleep, Cause::Command, governor);
                Ok(Answer::Accepted)
            }
            _ => Err(in_state(child)),
        }
    }

    fn replace(&mut self, index: usize, governor: &mut Governor) -> Outcome {
        let child = &self.children[index];
        match child.state {
            State::Replacing => Ok(Answer::Already(child.state)),
            State::Ready | State::Busy if child.is_unkillable() => {
                Err(Refusal::Unkillable(child.spec.id.clone()))
            }
            State::Ready | State::Busy => {
                // A person waits for it, and it is one: it takes no place in the governor.
                let mut one = self.new_incarnation(index);
                one.has_place = false;
                let child = &mut self.children[index];
                let (id, generation) = (child.spec.id.clone(), one.generation);
                let replaces = Some(child.generation);
                child.successor = Some(one);
                self.step(index, Step::Replace, Cause::Command);
                self.order(Order::Start { id, generation, replaces });
                Ok(Answer::Accepted)
            }
            _ => self.restart(index, governor),
        }
    }

    fn add(&mut self, spec: ChildSpec) -> Outcome {
        self.check_new(&spec)?;
        let lazy = spec.lazy;
        self.children.push(Child::new(spec, self.now));
        if let Err(error) = self.check_dependencies() {
            self.children.pop();
            return Err(error.into());
        }
        if self.phase == Phase::New {
            return Ok(Answer::Accepted);
        }
        let index = self.children.len() - 1;
        if lazy {
            self.step(index, Step::Doze, Cause::Command);
        } else {
            let has_turn = self.children.iter().any(|child| child.has_turn);
            let child = &mut self.children[index];
            child.want(self.now, Cause::Command);
            child.has_turn = has_turn;
        }
        Ok(Answer::Accepted)
    }

    fn update(&mut self, spec: ChildSpec) -> Outcome {
        let index = self.find_kept(&spec.id)?;
        spec.check(&self.flags)?;
        if self.children[index].spec == spec {
            return Ok(Answer::Already(self.children[index].state));
        }
        let old = std::mem::replace(&mut self.children[index].spec, spec);
        if let Err(error) = self.check_dependencies() {
            self.children[index].spec = old;
            return Err(error.into());
        }
        let child = &mut self.children[index];
        if child.state == State::Failed {
            child.forgive();
            child.want(self.now, Cause::Command);
        }
        Ok(Answer::Accepted)
    }

    fn remove(&mut self, index: usize, governor: &mut Governor) -> Outcome {
        let child = &self.children[index];
        let id = &child.spec.id;
        if let Some(dependent) = self.dependents(id).next() {
            return Err(Refusal::NeededBy(id.clone(), dependent.spec.id.clone()));
        }
        if child.then == Then::Remove {
            return Ok(Answer::Already(child.state));
        }
        if child.state.is_running() && child.state != State::Stopping {
            self.stop_child(index, Then::Remove, Cause::Command, governor);
        } else if !matches!(child.state, State::Stopped | State::Stopping) {
            self.step(index, Step::End, Cause::Command);
        }
        let child = &mut self.children[index];
        child.then = Then::Remove;
        child.is_wanted = false;
        self.hurry_retired(index, governor);
        let child = &mut self.children[index];
        child.has_turn = false;
        child.is_held = true;
        self.forget_if_removed(index);
        Ok(Answer::Accepted)
    }
}

fn in_state(child: &Child) -> Refusal {
    Refusal::InState { id: child.spec.id.clone(), state: child.state }
}
