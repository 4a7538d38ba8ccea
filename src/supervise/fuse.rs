//! Points where tests make an actor panic: before a message is handled, and in its middle. Costs
//! nothing and does nothing elsewhere.

#[cfg(not(test))]
pub(crate) fn enter(_mail: &'static str) {}

#[cfg(not(test))]
pub(crate) fn burn() {}

#[cfg(test)]
pub(crate) use lit::{Fuse, burn, enter};

#[cfg(test)]
mod lit {
    use std::cell::Cell;
    use std::thread;

    use parking_lot::Mutex;

    thread_local! {
        static ENTERED: Cell<&'static str> = const { Cell::new("") };
    }

    static FUSES: Mutex<Vec<Fuse>> = Mutex::new(Vec::new());

    /// Panics once.
    #[derive(Clone, Debug, Eq, PartialEq)]
    pub(crate) struct Fuse {
        /// Name of the thread where the actor lives.
        pub(crate) thread: String,
        /// Last part of the name of the message type.
        pub(crate) mail: &'static str,
        /// Whether in the middle of the handler, or before it.
        pub(crate) is_within: bool,
    }

    impl Fuse {
        pub(crate) fn light(self) {
            FUSES.lock().push(self);
        }

        pub(crate) fn is_burnt(&self) -> bool {
            !FUSES.lock().contains(self)
        }
    }

    pub(crate) fn enter(mail: &'static str) {
        ENTERED.set(mail);
        reach(false);
    }

    pub(crate) fn burn() {
        reach(true);
    }

    fn reach(is_within: bool) {
        let mail = ENTERED.get();
        let thread = thread::current();
        let found = {
            let mut fuses = FUSES.lock();
            let is_here = |fuse: &Fuse| {
                fuse.is_within == is_within
                    && mail.rsplit("::").next() == Some(fuse.mail)
                    && thread.name() == Some(&fuse.thread)
            };
            let place = fuses.iter().position(is_here);
            place.map(|place| fuses.remove(place))
        };
        assert!(found.is_none(), "a test wants a panic: {found:?}");
    }
}
