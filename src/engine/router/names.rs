//! From names to routes.
//!
//! Every route is made in [`Router::open`], after one [`authorize`](Router::authorize) decision.

use std::sync::Arc;

use super::entry::{Duty, Instance, PluginEntry};
use super::plugins::not_found;
use super::presence::Absence;
use super::{RouteEntry, Router};
use crate::engine::channel::Channel;
use crate::engine::effects::{Effects, Now};
use crate::engine::ledger::Resource;
use crate::engine::method::{Callee, MethodRoute};
use crate::engine::port::{Port, Route};
use crate::engine::topic::TopicRoute;
use crate::error::{Code, Fault};
use crate::id::{
    ChannelName, MethodName, PluginId, RouteId, Topic, parse_channel_address, parse_method_address,
};
use crate::limit::Limits;
use crate::wire::body::{Open, Opened, RouteKind};

impl Router {
    /// Resolves a name for a session. The same name gives the same route again.
    pub(super) fn open(
        &mut self,
        port: &Arc<Port>,
        open: &Open,
        now: Now,
        fx: &mut Effects,
    ) -> Result<Opened, Fault> {
        self.authorize(port, open.kind, &open.name)?;
        let key = (port.session, open.kind, open.name.clone());
        if let Some(&number) = self.by_name.get(&key) {
            return Ok(opened(number, open.kind, &port.limits));
        }
        if self.shutting_down {
            return Err(Fault::new(Code::ShuttingDown, "the broker is shutting down"));
        }
        let charge =
            port.account.try_charge(Resource::Routes, 1, u64::from(port.limits.routes_max))?;
        let number = RouteId(self.route_last + 1);
        let route = match open.kind {
            RouteKind::Method => self.open_method(port, number, &open.name, now)?,
            RouteKind::Channel => self.open_channel(port, number, &open.name, now, fx)?,
            RouteKind::Topic | RouteKind::Broadcast => {
                self.open_topic(port, number, open.kind, &open.name, fx)?
            }
        };
        self.route_last += 1;
        port.routes.lock().insert(number, route.clone());
        if let Route::Topic(topic) = &route {
            self.topics.insert(topic);
        }
        self.routes.insert(number, RouteEntry { route, _charge: Some(charge) });
        self.by_name.insert(key, number);
        Ok(opened(number, open.kind, &port.limits))
    }

    /// Gives a route up for its owner.
    pub(super) fn close(
        &mut self,
        port: &Arc<Port>,
        number: RouteId,
        now: Now,
        fx: &mut Effects,
    ) -> Result<(), Fault> {
        let name = self
            .by_name
            .range((port.session, RouteKind::Method, String::new())..)
            .take_while(|((session, ..), _)| *session == port.session)
            .find(|&(_, &known)| known == number)
            .map(|(name, _)| name.clone());
        let Some(name) = name else {
            return Err(Fault::new(
                Code::UnknownRoute,
                format!("this session has not opened route {number}"),
            ));
        };
        self.by_name.remove(&name);
        self.end_route(port, number, "the route was closed", now, fx);
        Ok(())
    }

    /// Ends every route that the session has opened.
    pub(super) fn end_routes(&mut self, port: &Arc<Port>, now: Now, fx: &mut Effects) {
        let own: Vec<_> = self
            .by_name
            .range((port.session, RouteKind::Method, String::new())..)
            .take_while(|((session, ..), _)| *session == port.session)
            .map(|(name, &number)| (name.clone(), number))
            .collect();
        for (name, number) in own {
            self.by_name.remove(&name);
            self.end_route(port, number, "its owner has gone", now, fx);
        }
        drop(port.routes.lock().clear());
    }

    /// Brings every route that leads to a plugin up to date, by its id or by a service.
    pub(super) fn refresh_plugin(&mut self, plugin: &PluginId, now: Now, fx: &mut Effects) {
        let Some(entry) = self.plugins.get(plugin) else { return };
        let live = entry.instances.iter().flat_map(|instance| &instance.serves.services);
        let mut targets: Vec<PluginId> = live.chain(&entry.last.services).cloned().collect();
        targets.push(plugin.clone());
        targets.sort_unstable();
        targets.dedup();
        for target in targets {
            self.refresh_methods(&target, now, fx);
        }
    }

    /// Brings every route to `target` up to date with who serves it.
    pub(super) fn refresh_methods(&mut self, target: &PluginId, now: Now, fx: &mut Effects) {
        for number in self.methods_to.get(target).into_iter().flatten() {
            let Some(Route::Method(route)) = self.route(*number) else { continue };
            let (callees, absence) = self.resolve_method(&route.target, &route.method);
            route.set_candidates(&callees, absence);
        }
        self.release_held(target, now, fx);
    }

    /// Gives each channel to the plugin a receiver that has registered it, and takes it from those
    /// who have not. A channel stays where it is as long as it can.
    pub(super) fn refresh_channels(&self, plugin: &PluginId, now: Now, fx: &mut Effects) {
        for number in self.channels_to.get(plugin).into_iter().flatten() {
            let Some(Route::Channel(channel)) = self.route(*number) else { continue };
            let able = self.receivers(plugin, &channel.name);
            if able.iter().any(|port| channel.leads_to(port.session)) {
                continue;
            }
            let retiring = self.ports_of(plugin, |known| {
                known.duty == Duty::Retiring && known.serves.channels.contains_key(&channel.name)
            });
            // Who was replaced acknowledges what it has; who took the channel back need not.
            let is_retiring = retiring.iter().any(|port| channel.leads_to(port.session));
            if !is_retiring {
                channel.detach("the channel is no longer registered", None, now, fx);
            }
            match share(&able, *number) {
                Some(receiver) if is_retiring => channel.move_to(receiver, now, fx),
                Some(receiver) => channel.attach(receiver, fx),
                None => (),
            }
        }
    }

    /// Sessions that may be given a channel.
    fn receivers(&self, plugin: &PluginId, name: &ChannelName) -> Vec<Arc<Port>> {
        self.ports_of(plugin, |instance| {
            instance.duty == Duty::Serving
                && instance.registered
                && instance.serves.channels.contains_key(name)
        })
    }

    /// Forgets a route that nobody uses any more.
    pub(super) fn forget_route(&mut self, number: RouteId) {
        let Some(entry) = self.routes.remove(&number) else { return };
        let (index, target) = match &entry.route {
            Route::Method(route) => (&mut self.methods_to, &route.target),
            Route::Channel(channel) => (&mut self.channels_to, &channel.target),
            Route::Topic(topic) => {
                self.topics.remove(topic);
                return;
            }
        };
        if let Some(numbers) = index.get_mut(target) {
            numbers.remove(&number);
            if numbers.is_empty() {
                index.remove(target);
            }
        }
    }

    /// The decision about every route. Everything is allowed that the protocol allows, until
    /// plugins declare what they need.
    fn authorize(&self, _port: &Port, kind: RouteKind, name: &str) -> Result<(), Fault> {
        if matches!(kind, RouteKind::Topic | RouteKind::Broadcast)
            && Topic::parse(name)?.is_reserved()
        {
            return Err(Fault::new(
                Code::Denied,
                format!("topics that begin with `plugbus.` are the broker's own, as is {name:?}"),
            ));
        }
        Ok(())
    }

    fn open_method(
        &mut self,
        port: &Arc<Port>,
        number: RouteId,
        name: &str,
        now: Now,
    ) -> Result<Route, Fault> {
        let (target, method) = parse_method_address(name)?;
        let (callees, absence) = self.resolve_method(&target, &method);
        if callees.is_empty() && absence.hold_until(now).is_none() {
            return Err(absence.fault(now));
        }
        let route = Arc::new(MethodRoute::new(number, port, target.clone(), method));
        route.set_candidates(&callees, absence);
        self.methods_to.entry(target).or_default().insert(number);
        Ok(Route::Method(route))
    }

    fn open_channel(
        &mut self,
        port: &Arc<Port>,
        number: RouteId,
        name: &str,
        now: Now,
        fx: &mut Effects,
    ) -> Result<Route, Fault> {
        let (target, name) = parse_channel_address(name)?;
        let Some(entry) = self.plugins.get(&target) else {
            return Err(self.unknown_plugin(&target));
        };
        let able = self.receivers(&target, &name);
        if able.is_empty() && entry.serving().any(|instance| instance.registered) {
            let names = entry.offers().channels.keys().map(ChannelName::as_str);
            let message = format!("`{target}` has no channel `{name}`");
            return Err(not_found(&message, name.as_str(), names));
        }
        let receiver = share(&able, number);
        let channel = Arc::new(Channel::new(number, port, target.clone(), name, now));
        if let Some(receiver) = receiver {
            channel.attach(receiver, fx);
        }
        self.channels_to.entry(target).or_default().insert(number);
        Ok(Route::Channel(channel))
    }

    fn open_topic(
        &self,
        port: &Arc<Port>,
        number: RouteId,
        kind: RouteKind,
        name: &str,
        fx: &mut Effects,
    ) -> Result<Route, Fault> {
        let topic = Topic::parse(name)?;
        let publisher = Some(Arc::clone(port));
        let route = Arc::new(TopicRoute::new(number, publisher, topic, kind, &self.tallies));
        self.fill_subscribers(&route, fx);
        Ok(Route::Topic(route))
    }

    /// Sessions that serve a method, and what happens to calls while none of them takes any.
    fn resolve_method(&self, target: &PluginId, method: &MethodName) -> (Vec<Callee>, Absence) {
        let serves = |id: &PluginId, entry: &PluginEntry| {
            let mut live = entry.serving().peekable();
            id == target
                || match live.peek() {
                    Some(_) => live.any(|known| known.serves.services.contains(target)),
                    None => entry.last.services.contains(target),
                }
        };
        let serving: Vec<_> =
            self.plugins.iter().filter(|&(id, entry)| serves(id, entry)).collect();
        if serving.is_empty() {
            return (Vec::new(), Absence::new(self.unknown_plugin(target)));
        }
        let mut callees = Vec::new();
        for (id, entry) in &serving {
            let mine = |known: &&Instance| *id == target || known.serves.services.contains(target);
            for instance in entry.callable().filter(mine) {
                let Some(known) = instance.serves.methods.get(method) else { continue };
                callees.push(Callee {
                    port: Arc::clone(&self.sessions[&instance.session].port),
                    idempotent: known.idempotent,
                    returns: entry.presence.is_awaited(),
                });
            }
        }
        let is_live = serving.iter().any(|(_, entry)| entry.is_live());
        let is_known = serving.iter().any(|(_, entry)| entry.callable().next().is_some());
        let is_awaited =
            |entry: &PluginEntry| entry.presence.is_awaited() && entry.callable().next().is_none();
        if !callees.is_empty() || !is_live || serving.iter().any(|(_, entry)| is_awaited(entry)) {
            return (callees, self.absence(target, serving.into_iter()));
        }
        if !is_known {
            let fault = Fault::new(
                Code::Offline,
                format!("`{target}` is connected but has not registered its methods yet"),
            );
            return (callees, Absence::new(fault.with("plugin", target.as_str())));
        }
        let names = serving.iter().flat_map(|(_, entry)| entry.offers().methods.keys());
        let names = names.map(MethodName::as_str);
        let message = format!("`{target}` has no method `{method}`");
        (callees, Absence::new(not_found(&message, method.as_str(), names)))
    }

    fn end_route(
        &mut self,
        port: &Arc<Port>,
        number: RouteId,
        reason: &'static str,
        now: Now,
        fx: &mut Effects,
    ) {
        let route = self.route(number);
        match &route {
            // It still has to acknowledge what it has sent to itself.
            Some(Route::Channel(channel)) if channel.leads_to(port.session) => (),
            _ => port.forget_route(number),
        }
        match route {
            Some(Route::Method(route)) => {
                self.end_calls_of_route(port, number, now, fx);
                route.close(reason, now, fx);
            }
            Some(Route::Topic(topic)) => topic.close(reason, fx),
            Some(Route::Channel(channel)) => {
                if !channel.leave() {
                    // What it accepted is still on its way.
                    return;
                }
                channel.close(reason, now, fx);
            }
            None => return,
        }
        self.forget_route(number);
    }

    /// Calls on a route that its owner gives up are cancelled.
    fn end_calls_of_route(&self, port: &Port, number: RouteId, now: Now, fx: &mut Effects) {
        let ids: Vec<u64> = port
            .calls
            .lock()
            .iter()
            .filter(|(_, call)| call.route.number == number)
            .map(|(id, _)| id)
            .collect();
        for id in ids {
            if let Some(Route::Method(route)) = self.route(number) {
                route.cancel(id, now, fx).expect("the call was live just now");
            }
        }
    }
}

/// One of several receivers, the same one for the same route.
fn share(able: &[Arc<Port>], number: RouteId) -> Option<&Arc<Port>> {
    able.get(number.0 as usize % able.len().max(1))
}

fn opened(number: RouteId, kind: RouteKind, limits: &Limits) -> Opened {
    let windowed = kind != RouteKind::Method;
    Opened {
        route: number.0,
        window_messages: windowed.then_some(limits.window_messages),
        window_bytes: windowed.then_some(limits.window_bytes),
    }
}
