//! What a final block must be in itself, written out once more.

use super::*;

impl Checker {
    /// The first time that a block is final anywhere: it must be right in itself.
    pub(super) fn extend(&mut self, block: &Arc<SealedBlock>, now: u64) {
        match self.verify(block) {
            Ok((carried, last_result)) => {
                self.epochs.follow(&self.rules, block);
                let header = &block.header;
                let leader = self.leaders.of_view(header.view);
                let producer = self.committees[&header.epoch].members()[leader.index()].address;
                let is_opened = ChainContext::is_opened(&self.rules, block);
                self.chain.push(Known {
                    block: Arc::clone(block),
                    carried,
                    last_result,
                    producer,
                    is_opened,
                    result: None,
                    at: now,
                    everywhere: now,
                });
                self.fill_results();
            }
            Err(why) => self.violation(format!("final block {} breaks a rule: {why}", block.header.height)),
        }
    }

    fn verify(&mut self, block: &Arc<SealedBlock>) -> Result<(Height, Height), String> {
        let parent = self.chain.last().expect("genesis is there");
        let (header, above) = (&block.header, &parent.block.header);
        if header.parent != parent.block.hash() || header.height != above.height.next() {
            return Err("it does not stand on the block below".to_owned());
        }
        if header.timestamp <= above.timestamp {
            return Err(format!("P15: time {} after {}", header.timestamp, above.timestamp));
        }
        if header.kind != HeaderKind::Block || block.body.root() != header.body_root {
            return Err("it is a filler, or its body is not that of the header".to_owned());
        }
        if self.invalid.contains(&block.hash()) {
            return Err("a Byzantine leader made it to break a rule".to_owned());
        }
        let new_epoch = header.epoch == above.epoch.next();
        if header.epoch != above.epoch && !new_epoch {
            return Err(format!("epoch {} after {}", header.epoch, above.epoch));
        }
        self.epochs.check(header, parent.last_result, new_epoch)?;
        if new_epoch {
            let committee = self.epochs.begin(&self.rules, header)?;
            let beacon = match self.epochs.seed_height() {
                Some(last) => self.last_beacon(last)?,
                None => B256::ZERO,
            };
            self.leaders = leaders(&self.rules, &committee, &beacon);
            self.committees.insert(header.epoch, committee);
        }
        if self.committees[&header.epoch].root() != header.committee_root {
            return Err("its committee is not the epoch's".to_owned());
        }
        self.verify_place(block, new_epoch)?;
        let carried = self.verify_commit(block, new_epoch)?;
        let last_result = self.verify_results(block, carried)?;
        self.verify_content(block, carried)?;
        Ok((carried, last_result))
    }

    /// The beacon of the last block with one, of those of an epoch up to a height; zero if there is none.
    fn last_beacon(&self, last: Height) -> Result<B256, String> {
        let up_to = &self.chain[..=last.0 as usize];
        let epoch = up_to.last().expect("the last one is among them").block.header.epoch;
        for known in up_to.iter().rev().take_while(|known| known.block.header.epoch == epoch) {
            match known.result {
                None => return Err("its epoch has a seed that nobody has opened".to_owned()),
                Some(result) if !result.beacon.is_zero() => return Ok(result.beacon),
                Some(_) => {}
            }
        }
        Ok(B256::ZERO)
    }

    fn verify_place(&mut self, block: &SealedBlock, new_epoch: bool) -> Result<(), String> {
        let above = &self.chain.last().expect("genesis is there").block;
        let (from, wanted) = if new_epoch || above.header.height == Height(0) {
            (View(0), None)
        } else {
            (above.header.view, Some(VoteTarget::prepare(above.header.epoch, above.header.view, above.hash())))
        };
        let certificates = block.body.certificates.clone();
        if certificates.parent.as_ref().map(|c| c.target) != wanted {
            return Err("the parent's certificate is not the parent's".to_owned());
        }
        if block.header.view <= from {
            return Err(format!("view {} does not follow view {from}", block.header.view));
        }
        let per_term = self.rules.params().views_per_term;
        let epoch = block.header.epoch;
        for view in from.0 + 1..block.header.view.0 {
            let covered = certificates.skips.iter().any(|skip| {
                let t = skip.target;
                let last_covered = (t.view.0 - 1) / per_term * per_term + per_term;
                t.kind == VoteKind::Skip && t.epoch == epoch && t.view.0 <= view && view <= last_covered
            });
            if !covered {
                return Err(format!("no skip covers view {view} between {from} and {}", block.header.view));
            }
        }
        for certificate in certificates.parent.iter().chain(&certificates.skips) {
            self.proves(certificate)?;
        }
        Ok(())
    }

    fn verify_commit(&mut self, block: &SealedBlock, new_epoch: bool) -> Result<Height, String> {
        let parent = self.chain.last().expect("genesis is there");
        let before = parent.carried;
        let Some(commit) = block.body.certificates.commit.clone() else {
            return if new_epoch { Err("an epoch begins without a commit certificate".to_owned()) } else { Ok(before) };
        };
        let mut reached = commit.target.block;
        for filler in block.body.certificates.fillers.iter().rev() {
            if filler.hash() != reached || filler.kind != HeaderKind::Filler {
                return Err("filler headers do not chain".to_owned());
            }
            reached = filler.parent;
        }
        let found = self.chain.iter().rev().find(|k| k.block.hash() == reached);
        let height = found.ok_or("the commit certificate is of no ancestor")?.block.header.height;
        if height < before || (new_epoch && height != parent.block.header.height) {
            return Err(format!("carries a commit certificate of {height} after one of {before}"));
        }
        if commit.target.kind != VoteKind::Commit {
            return Err("the commit certificate is none".to_owned());
        }
        self.proves(&commit)?;
        Ok(height)
    }

    /// Decision 6, written out: every height after the parent's last one up to min(c, h-D), at most 64; each equal to
    /// what executing the chain gives (P11).
    fn verify_results(&mut self, block: &SealedBlock, carried: Height) -> Result<Height, String> {
        let before = self.chain.last().expect("genesis is there").last_result.0;
        let lag = self.rules.params().results_lag;
        let due = carried.0.min(block.header.height.0.saturating_sub(lag)).max(before);
        let due = due.min(before + MAX_RESULTS_PER_HEADER as u64);
        let wanted: Option<Vec<ResultEntry>> = (before + 1..=due).map(|h| self.chain[h as usize].result).collect();
        let Some(wanted) = wanted else { return Err(format!("results up to {due}, which nobody has opened")) };
        if block.header.results != wanted {
            return Err(format!("P11: results {:?}, due are {wanted:?}", block.header.results));
        }
        Ok(Height(due))
    }

    fn verify_content(&self, block: &SealedBlock, carried: Height) -> Result<(), String> {
        if !self.is_encrypted() && block.body.transactions.iter().any(app::is_invalid) {
            return Err("it carries a transaction that makes it invalid".to_owned());
        }
        if block.header.da != app::commitment(&block.body) {
            return Err("it commits to another square than that of its body".to_owned());
        }
        let lag = self.rules.params().results_lag;
        if !block.body.transactions.is_empty() && block.header.height.0 - 1 - carried.0 >= lag {
            return Err("it carries transactions while finality is away".to_owned());
        }
        Ok(())
    }
}
