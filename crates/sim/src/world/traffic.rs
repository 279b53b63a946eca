//! What goes over the network: messages of the cores, transactions, catch-up.

use cascade_consensus::sync;
use cascade_primitives::{Bytes, View};

use super::*;
use crate::sealed::Party;

impl<B: Bugs> World<'_, B> {
    pub(super) fn deliver(&mut self, from: usize, to: usize, payload: Payload) {
        if !self.nodes[to].is_up() {
            return;
        }
        match payload {
            Payload::Consensus(message) => {
                if let Some(probe) = &mut self.probe {
                    probe.arrived(self.now, to, &message);
                }
                let peer = self.ids[from];
                if let Message::Proposal(block, _) = &message {
                    self.carry(to, CarriageInput::Arrived { from: peer, block: block.hash() });
                }
                if self.nodes[to].adversary.is_some() {
                    self.overheard(to, &message);
                }
                self.step(to, Some(from), Input::Message { from: peer, message });
            }
            Payload::Transaction(transaction) => self.add_transaction(to, &transaction),
            Payload::Item(item) => self.take_item(from, to, item),
            Payload::Reveal(message) => self.take_reveal(from, to, message),
            Payload::Carried(message) => {
                let message = message.as_ref().clone();
                self.carry(to, CarriageInput::Message { from: self.ids[from], message });
            }
            Payload::Request { life, id, request } => {
                let truth = sync::answer(&self.nodes[to].disk, &request);
                let answer = match &mut self.nodes[to].adversary {
                    Some(adversary) => adversary.answer(truth),
                    None => Some(truth),
                };
                if let Some(response) = answer {
                    self.transmit(to, from, Payload::Response { life, id, response: Arc::new(response) });
                }
            }
            Payload::Response { life, id, response } => {
                if self.nodes[to].life == life {
                    let peer = self.ids[from];
                    self.sync(to, SyncInput::Response { peer, id, response: response.as_ref().clone() });
                }
            }
        }
    }

    fn overheard(&mut self, node: usize, message: &Message) {
        let Some(running) = &self.nodes[node].running else { return };
        let epoch = running.core.position().0;
        let place = running.core.committee().index_of(&self.ids[node]);
        let mut out = Vec::new();
        let adversary = self.nodes[node].adversary.as_mut().expect("the node is Byzantine");
        adversary.incoming(place, epoch, message, &mut out);
        for (to, message) in out {
            self.transmit(node, to, Payload::Consensus(message));
        }
    }

    /// A Byzantine node that leads the view it entered need not wait for its core.
    pub(super) fn may_lead(&mut self, i: usize, epoch: Epoch, view: View) {
        let node = &mut self.nodes[i];
        let (Some(adversary), Some(running)) = (&mut node.adversary, &mut node.running) else { return };
        let Some(place) = running.core.committee().index_of(&self.ids[i]) else { return };
        let mut out = Vec::new();
        if running.core.position() == (epoch, view) && running.core.health().leader == self.ids[i] {
            adversary.leads(epoch, view, place, &mut out);
        }
        for hash in adversary.invalid.drain(..) {
            self.checker.invalid_block(hash);
        }
        for (to, message) in out {
            self.transmit(i, to, Payload::Consensus(message));
        }
    }

    /// A message of a core, to one sequencer or to all. It leaves once everything before it is synced.
    pub(super) fn emit(&mut self, i: usize, to: Option<NodeId>, message: Message) {
        let now = self.now;
        let Some(running) = &mut self.nodes[i].running else { return };
        if running.disk_free_at <= now && running.outbox.is_empty() {
            self.send(i, to, message);
            return;
        }
        let ready_at = running.disk_free_at.max(now);
        match running.outbox.back_mut() {
            Some(batch) if batch.ready_at == ready_at => batch.messages.push((to, message)),
            _ => running.outbox.push_back(Batch { ready_at, messages: vec![(to, message)] }),
        }
    }

    pub(super) fn flush(&mut self, i: usize) {
        let now = self.now;
        self.nodes[i].disk.sync_log(now);
        while let Some(running) = &mut self.nodes[i].running
            && running.outbox.front().is_some_and(|batch| batch.ready_at <= now)
        {
            let batch = running.outbox.pop_front().expect("there is one");
            for (to, message) in batch.messages {
                self.send(i, to, message);
            }
        }
    }

    fn send(&mut self, i: usize, to: Option<NodeId>, message: Message) {
        self.checker.sent(i, &message, self.nodes[i].disk.log());
        self.watch.sent(self.shared[i], &message, &mut self.counts);
        self.share_early(i, &message);
        let targets: Vec<usize> = match to {
            Some(peer) => self.places(i, &peer).collect(),
            None => (0..self.nodes.len()).filter(|&other| other != i).collect(),
        };
        if let Some(adversary) = &mut self.nodes[i].adversary {
            let mut out = Vec::new();
            adversary.outgoing(&targets, message, &mut out);
            for hash in adversary.invalid.drain(..) {
                self.checker.invalid_block(hash);
            }
            for (to, message) in self.lie_in_chunks(i, &targets, out) {
                self.transmit(i, to, Payload::Consensus(message));
            }
            return;
        }
        if let (Some(probe), Some(uplinks)) = (&mut self.probe, &self.uplinks) {
            probe.sent(self.now, i, &message, uplinks.sent());
        }
        if self.plan.carriage.coded {
            match (to, &message) {
                (None, Message::Proposal(..)) => return self.carry(i, CarriageInput::Propose(message)),
                (Some(peer), Message::GetBlock(block)) => {
                    return self.carry(i, CarriageInput::Want { peer, block: *block });
                }
                _ => {}
            }
        }
        for to in targets {
            self.transmit(i, to, Payload::Consensus(message.clone()));
        }
    }

    /// The nodes but this one that have this identity: one, or two if its key was copied.
    pub(super) fn places(&self, i: usize, peer: &NodeId) -> impl Iterator<Item = usize> {
        let (ids, peer) = (&self.ids, *peer);
        (0..ids.len()).filter(move |&other| other != i && ids[other] == peer)
    }

    pub(super) fn transmit(&mut self, from: usize, to: usize, payload: Payload) {
        if let Payload::Consensus(message) = &payload {
            if self.plan.losses.iter().any(|l| l.during.contains(&self.now) && (l.what)(from, to, message)) {
                self.counts.add(Fault::KindLoss);
                return;
            }
            if let Some(traffic) = &mut self.traffic {
                traffic.sent(message);
            }
        }
        let departure = self.uplinks.as_mut().map(|uplinks| uplinks.send(self.now, from, &payload));
        let [first, second] = self.network.route(self.now, from, to, departure, &mut self.counts);
        if let Some(at) = second {
            self.queue.push(at, Event::Deliver { from, to, payload: payload.clone() });
        }
        if let Some(at) = first {
            self.queue.push(at, Event::Deliver { from, to, payload });
        }
    }

    pub(super) fn submit(&mut self) {
        if self.stage.is_some() {
            self.trade();
        } else if self.clients {
            self.submitted += 1;
            let first = self.rng.below(self.nodes.len() as u64) as usize;
            if self.nodes[first].is_up()
                && let Some(transaction) = self.new_transaction(first)
            {
                self.add_transaction(first, &transaction);
                for to in (0..self.nodes.len()).filter(|&to| to != first) {
                    self.transmit(first, to, Payload::Transaction(transaction.clone()));
                }
            }
        }
        let pause = 1 + self.rng.below(2 * self.plan.transaction_every);
        self.queue.push(self.now + pause, Event::Submit);
    }

    pub(super) fn add_transaction(&mut self, i: usize, transaction: &Bytes) {
        let new = if self.beside.is_some() {
            self.admit(i, transaction)
        } else {
            self.nodes[i].running.as_mut().is_some_and(|running| running.app.add(transaction))
        };
        if new {
            self.refresh_work(i);
        }
    }

    pub(super) fn refresh_work(&mut self, i: usize) {
        let life = self.nodes[i].life;
        let Some(running) = &mut self.nodes[i].running else { return };
        let has_work = running.app.has_work() || running.party.as_ref().is_some_and(Party::has_work);
        if has_work != running.has_work {
            running.has_work = has_work;
            self.queue.push(self.now, Event::Input { node: i, life, input: Box::new(Input::Work(has_work)) });
        }
    }

    pub(super) fn offer_again(&mut self, i: usize) {
        let Some(running) = &self.nodes[i].running else { return };
        let waiting = match &running.party {
            Some(party) => party.waiting_envelopes(),
            None => running.app.waiting(),
        };
        for transaction in waiting {
            for to in (0..self.nodes.len()).filter(|&to| to != i) {
                self.transmit(i, to, Payload::Transaction(transaction.clone()));
            }
        }
        let life = self.nodes[i].life;
        self.queue.push(self.now + OFFER_AGAIN, Event::OfferAgain { node: i, life });
    }
}
