//! From names to routes.
//!
//! Every route is made in [`Router::open`], after one [`authorize`](Router::authorize) decision.

use std::sync::Arc;

use super::plugins::not_found;
use super::{RouteEntry, Router};
use crate::engine::channel::Channel;
use crate::engine::effects::{Effects, Now};
use crate::engine::ledger::Resource;
use crate::engine::method::MethodRoute;
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
            RouteKind::Method => self.open_method(port, number, &open.name)?,
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

    /// Brings every route to `target` up to date with who serves it.
    pub(super) fn refresh_methods(&self, target: &PluginId) {
        for number in self.methods_to.get(target).into_iter().flatten() {
            let Some(Route::Method(route)) = self.route(*number) else { continue };
            match self.resolve_method(&route.target, &route.method) {
                Ok(ports) => {
                    let absent = self.absent_plugin(target);
                    route.set_candidates(&ports, absent);
                }
                Err(absent) => route.set_candidates(&[], absent),
            }
        }
    }

    /// Attaches the channels that the plugin has registered, detaches those that it no longer has.
    pub(super) fn refresh_channels(&self, port: &Arc<Port>, now: Now, fx: &mut Effects) {
        let entry = self.plugins.get(&port.plugin).expect("live plugins are known");
        for number in self.channels_to.get(&port.plugin).into_iter().flatten() {
            let Some(Route::Channel(channel)) = self.route(*number) else { continue };
            if entry.registered && entry.channels.contains_key(&channel.name) {
                channel.attach(port, fx);
            } else {
                channel.detach("the channel is no longer registered", now, fx);
            }
        }
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
    ) -> Result<Route, Fault> {
        let (target, method) = parse_method_address(name)?;
        let ports = self.resolve_method(&target, &method)?;
        let absent = self.absent_plugin(&target);
        let route = Arc::new(MethodRoute::new(number, port, target.clone(), method));
        route.set_candidates(&ports, absent);
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
            return Err(self.absent_plugin(&target));
        };
        let present = entry.session.is_some() && entry.registered;
        if present && !entry.channels.contains_key(&name) {
            let names = entry.channels.keys().map(ChannelName::as_str);
            let message = format!("`{target}` has no channel `{name}`");
            return Err(not_found(&message, name.as_str(), names));
        }
        let channel = Arc::new(Channel::new(number, port, target.clone(), name, now));
        if present && let Some(receiver) = self.live_port(&target) {
            channel.attach(&receiver, fx);
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

    /// Sessions that serve a method, or why there is none.
    fn resolve_method(
        &self,
        target: &PluginId,
        method: &MethodName,
    ) -> Result<Vec<Arc<Port>>, Fault> {
        let serving: Vec<_> = self
            .plugins
            .iter()
            .filter(|(id, entry)| *id == target || entry.services.contains(target))
            .collect();
        if serving.is_empty() {
            return Err(self.absent_plugin(target));
        }
        let ports: Vec<Arc<Port>> = serving
            .iter()
            .filter(|(_, entry)| entry.registered && entry.methods.contains_key(method))
            .filter_map(|(id, _)| self.live_port(id))
            .collect();
        if !ports.is_empty() {
            return Ok(ports);
        }
        let live: Vec<_> = serving.iter().filter(|(_, entry)| entry.session.is_some()).collect();
        if live.is_empty() {
            return Err(match self.plugins.contains_key(target) {
                true => self.absent_plugin(target),
                false => Fault::new(Code::Offline, format!("nobody serves `{target}` now")),
            });
        }
        if live.iter().all(|(_, entry)| !entry.registered) {
            return Err(Fault::new(
                Code::Offline,
                format!("`{target}` is connected but has not registered its methods yet"),
            )
            .with("plugin", target.as_str()));
        }
        let names = live.iter().flat_map(|(_, entry)| entry.methods.keys()).map(MethodName::as_str);
        Err(not_found(&format!("`{target}` has no method `{method}`"), method.as_str(), names))
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

fn opened(number: RouteId, kind: RouteKind, limits: &Limits) -> Opened {
    let windowed = kind != RouteKind::Method;
    Opened {
        route: number.0,
        window_messages: windowed.then_some(limits.window_messages),
        window_bytes: windowed.then_some(limits.window_bytes),
    }
}
