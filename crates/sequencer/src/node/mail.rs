//! Addresses of actors that say how long what was sent waits.
//!
//! [`Addr`] stands in for actix's own and counts: `cascade_actor_mailbox_messages` is what was sent and not handled yet,
//! `cascade_actor_mailbox_wait_seconds` how long it lay in the mailbox. An actor that cannot keep up shows in both long
//! before anything breaks. A message that is answered ([`Addr::send`]) counts until its answer is there.

use std::{sync::Arc, time::Instant};

use actix::{Actor, Handler, MailboxError, Message, dev::ToEnvelope};
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntGauge, IntGaugeVec, Opts, Registry, exponential_buckets};

use super::{
    carriage::CarriageActor, consensus::ConsensusActor, content::ContentActor, execution::ExecutionActor,
    keys::KeysActor, reveal::RevealActor, storage::StorageActor, sync::SyncActor,
};

/// The metrics of all mailboxes.
#[derive(Clone, Debug)]
pub struct Mailboxes {
    messages: IntGaugeVec,
    wait: HistogramVec,
}

impl Mailboxes {
    /// Registers them.
    ///
    /// # Errors
    /// If they are registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let messages = Opts::new("cascade_actor_mailbox_messages", "Messages that an actor has not handled yet");
        let messages = IntGaugeVec::new(messages, &["actor"])?;
        let wait = HistogramOpts::new("cascade_actor_mailbox_wait_seconds", "Time of a message in an actor's mailbox")
            .buckets(exponential_buckets(0.000_05, 4.0, 10)?);
        let wait = HistogramVec::new(wait, &["actor"])?;
        registry.register(Box::new(messages.clone()))?;
        registry.register(Box::new(wait.clone()))?;
        Ok(Self { messages, wait })
    }

    /// An address that counts under this name.
    #[must_use]
    pub fn counted<A: Actor>(&self, name: &str, addr: actix::Addr<A>) -> Addr<A> {
        let mailbox =
            Mailbox { messages: self.messages.with_label_values(&[name]), wait: self.wait.with_label_values(&[name]) };
        Addr { addr, mailbox: Arc::new(mailbox) }
    }
}

#[derive(Debug)]
struct Mailbox {
    messages: IntGauge,
    wait: Histogram,
}

/// One message that was sent and not handled yet.
struct Waiting(Arc<Mailbox>);

impl Waiting {
    fn new(mailbox: &Arc<Mailbox>) -> Self {
        mailbox.messages.inc();
        Self(Arc::clone(mailbox))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.messages.dec();
    }
}

type Handling<A> = Box<dyn FnOnce(&mut A, &mut <A as Actor>::Context) + Send>;

/// A message on its way, with what handles it.
pub struct Parcel<A: Actor> {
    handle: Handling<A>,
    sent: Instant,
    waiting: Waiting,
}

impl<A: Actor> Message for Parcel<A> {
    type Result = ();
}

impl<A: Actor> Parcel<A> {
    fn open(self, actor: &mut A, ctx: &mut A::Context) {
        let Self { handle, sent, waiting } = self;
        waiting.0.wait.observe(sent.elapsed().as_secs_f64());
        drop(waiting);
        handle(actor, ctx);
    }
}

/// Where an actor is reached.
pub struct Addr<A: Actor> {
    addr: actix::Addr<A>,
    mailbox: Arc<Mailbox>,
}

impl<A: Actor> Clone for Addr<A> {
    fn clone(&self) -> Self {
        Self { addr: self.addr.clone(), mailbox: Arc::clone(&self.mailbox) }
    }
}

impl<A: Actor> Addr<A> {
    /// Sends without waiting, past the mailbox's bound. Lost if the actor is gone.
    pub fn do_send<M>(&self, message: M)
    where
        M: Message<Result = ()> + Send + 'static,
        A: Handler<M, Result = ()> + Handler<Parcel<A>>,
        A::Context: ToEnvelope<A, Parcel<A>>,
    {
        self.addr.do_send(Parcel {
            handle: Box::new(move |actor, ctx| Handler::<M>::handle(actor, message, ctx)),
            sent: Instant::now(),
            waiting: Waiting::new(&self.mailbox),
        });
    }

    /// Waits for room in the mailbox and for the answer.
    ///
    /// # Errors
    /// If the actor is gone.
    pub async fn send<M>(&self, message: M) -> Result<M::Result, MailboxError>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        let _waiting = Waiting::new(&self.mailbox);
        self.addr.send(message).await
    }
}

macro_rules! take_parcels {
    ($($actor:ty),*) => {$(
        impl Handler<Parcel<Self>> for $actor {
            type Result = ();

            fn handle(&mut self, parcel: Parcel<Self>, ctx: &mut Self::Context) {
                parcel.open(self, ctx);
            }
        }
    )*};
}

take_parcels!(
    CarriageActor,
    ConsensusActor,
    ContentActor,
    ExecutionActor,
    KeysActor,
    RevealActor,
    StorageActor,
    SyncActor
);

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    struct Slow;

    impl Actor for Slow {
        type Context = actix::Context<Self>;
    }

    #[derive(Message)]
    #[rtype(result = "()")]
    struct Hold(std::sync::mpsc::Receiver<()>);

    #[derive(Message)]
    #[rtype(result = "()")]
    struct Tell(oneshot::Sender<()>);

    impl Handler<Hold> for Slow {
        type Result = ();

        fn handle(&mut self, Hold(until): Hold, _: &mut Self::Context) {
            let _ = until.recv();
        }
    }

    impl Handler<Tell> for Slow {
        type Result = ();

        fn handle(&mut self, Tell(done): Tell, _: &mut Self::Context) {
            let _ = done.send(());
        }
    }

    take_parcels!(Slow);

    #[actix::test]
    async fn what_waits_is_counted_until_it_is_handled() {
        let mailboxes = Mailboxes::new(&Registry::new()).unwrap();
        let addr = mailboxes.counted("slow", Slow::start_in_arbiter(&actix::Arbiter::new().handle(), |_| Slow));
        let messages = mailboxes.messages.with_label_values(&["slow"]);
        let (release, held) = std::sync::mpsc::channel();
        addr.do_send(Hold(held));
        let (done, told) = oneshot::channel();
        addr.do_send(Tell(done));
        assert!((1..=2).contains(&messages.get()), "at least the second still waits");
        release.send(()).unwrap();
        told.await.unwrap();
        assert_eq!(messages.get(), 0);
        assert_eq!(mailboxes.wait.with_label_values(&["slow"]).get_sample_count(), 2);
    }
}
