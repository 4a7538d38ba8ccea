//! Commands: each is answered at once, in every state.

use std::time::Duration;

use super::{
    Answer, Cause, Child, ChildId, ChildSpec, Command, Governor, Group, Phase, Plan, Refusal,
    SpecError, State, Step, Then,
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
            (
                Command::Add(_) | Command::Update(_) | Command::Remove(_) | Command::Reshape(_),
                Phase::New,
            ) => (),
            (_, Phase::New) => return Err(Refusal::NotStarted),
            (_, Phase::Starting | Phase::Running) => (),
        }
        match command {
            Command::Start(id) | Command::Enable(id) => self.start_child(self.find_kept(&id)?),
            Command::Stop(id) => self.stop(self.find_kept(&id)?, governor),
            Command::Kill(id) => self.kill(self.find(&id)?, governor),
            Command::Restart(id) => self.restart(self.find_staying(&id)?, governor),
            Command::Wake(id) => self.wake(self.find_staying(&id)?),
            Command::Sleep(id) => self.sleep(self.find_staying(&id)?, governor),
            Command::Replace(id) => self.replace(self.find_staying(&id)?, governor),
            Command::Remove(id) => self.remove(self.find(&id)?, governor),
            Command::Add(spec) => self.add(*spec, governor),
            Command::Update(spec) => self.update(*spec),
            Command::Reshape(plan) => self.reshape(*plan, governor),
            Command::ShutDown => unreachable!("it was answered above"),
        }
    }

    pub(super) fn find(&self, id: &ChildId) -> Result<usize, Refusal> {
        self.index(id).ok_or_else(|| Refusal::Unknown(id.clone()))
    }

    /// A child that is not being removed, or that comes again.
    pub(super) fn find_kept(&self, id: &ChildId) -> Result<usize, Refusal> {
        let index = self.find(id)?;
        let child = &self.children[index];
        if child.kept_spec().is_none() { Err(in_state(child)) } else { Ok(index) }
    }

    /// A child that is not being removed.
    fn find_staying(&self, id: &ChildId) -> Result<usize, Refusal> {
        let index = self.find(id)?;
        let child = &self.children[index];
        if child.is_leaving() { Err(in_state(child)) } else { Ok(index) }
    }

    fn start_child(&mut self, index: usize) -> Outcome {
        let child = &mut self.children[index];
        if child.is_leaving() {
            // It comes again when it is gone.
            child.is_held = false;
            return Ok(Answer::Already(child.state));
        }
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
            if self.is_there(&id) {
                continue;
            }
            for child in self.children.iter_mut().filter(|child| child.spec.answers_to(&id)) {
                if child.state == State::Stopped && !child.is_wanted && !child.is_leaving() {
                    child.want(self.now, Cause::Demand);
                    needed.extend(child.spec.after.iter().cloned());
                }
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
                self.start_successor(index, Cause::Command);
                Ok(Answer::Accepted)
            }
            _ => self.restart(index, governor),
        }
    }

    fn add(&mut self, spec: ChildSpec, governor: &mut Governor) -> Outcome {
        self.check_plan(&Plan { added: vec![spec.clone()], ..Plan::default() })?;
        self.put(spec, governor);
        Ok(Answer::Accepted)
    }

    fn update(&mut self, spec: ChildSpec) -> Outcome {
        let index = self.find_staying(&spec.id)?;
        if self.children[index].spec == spec {
            return Ok(Answer::Already(self.children[index].state));
        }
        self.check_plan(&Plan { renewed: vec![spec.clone()], ..Plan::default() })?;
        let child = &mut self.children[index];
        child.spec = spec;
        if child.state == State::Failed {
            child.forgive();
            child.want(self.now, Cause::Command);
        }
        Ok(Answer::Accepted)
    }

    fn remove(&mut self, index: usize, governor: &mut Governor) -> Outcome {
        let child = &mut self.children[index];
        if child.is_leaving() && child.heir.take().is_none() {
            return Ok(Answer::Already(child.state));
        }
        if child.is_leaving() {
            return Ok(Answer::Accepted);
        }
        let id = child.spec.id.clone();
        let plan = Plan { removed: vec![id.clone()], ..Plan::default() };
        if let Err(SpecError::Missing(dependent, _)) = self.check_plan(&plan) {
            return Err(Refusal::NeededBy(id, dependent));
        }
        self.depart(index, governor);
        Ok(Answer::Accepted)
    }
}

fn in_state(child: &Child) -> Refusal {
    Refusal::InState { id: child.spec.id.clone(), state: child.state }
}
