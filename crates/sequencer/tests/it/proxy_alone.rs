//! The proxy between a wallet and a node, and beside a light client, that do what a test says: what it seals to, what it
//! shows to whom, and what it says when something does not get on.

use alloy_primitives::{Address, B256, U256};
use cascade_primitives::{Epoch, Height, Item};
use cascade_sequencer::{exit::ExitCode, rpc::types::EnvelopeState, testnet::accounts::proxy_account, wallet::Fees};
use serde_json::json;

use crate::{
    cluster::{funded, wait_for},
    fake::{Bench, FEES, Fake, key, transfer},
};

const TO: Address = Address::repeat_byte(0x21);

fn better(percent: u128) -> Fees {
    Fees { max: FEES.max * percent / 100, tip: FEES.tip * percent / 100 }
}

/// Waits until the proxy has looked at the chain again, and done what follows from it.
fn look(bench: &Bench) {
    let before = bench.node.asked("l2_payer");
    wait_for("two more looks", || (bench.node.asked("l2_payer") >= before + 2).then_some(()));
}

#[test]
fn only_a_light_client_of_the_same_chain_is_taken_for_one() {
    let bench = Bench::new();
    let light = Fake::light(&bench.runtime);
    let refused = |url: &str| {
        let failure = bench.try_proxy(Some(url)).err().expect("it does not start");
        (failure.code, failure.message)
    };
    let (code, text) = refused(&Fake::start(&bench.runtime).url);
    assert_eq!(code, ExitCode::Usage);
    assert!(text.contains("is not a light client"), "{text}");
    let (code, text) = refused("http://127.0.0.1:1");
    assert_eq!(code, ExitCode::Unreachable);
    assert!(text.contains("does not answer"), "{text}");
    light.world.lock().keys.genesis_hash = B256::repeat_byte(8);
    let (code, text) = refused(&light.url);
    assert_eq!(code, ExitCode::Foreign);
    assert!(text.contains("another chain") && text.contains("0x0808"), "{text}");
    light.world.lock().keys.genesis_hash = B256::repeat_byte(7);
    assert!(bench.try_proxy(Some(&light.url)).is_ok());
}

#[test]
fn whatever_keeps_a_key_from_being_proved_is_said_in_words_of_its_own() {
    let bench = Bench::new();
    let light = Fake::light(&bench.runtime);
    light.world.lock().no_keys = Some("nothing is proved yet: the client still catches up".to_owned());
    let proxy = bench.try_proxy(Some(&light.url)).expect("it may yet catch up");
    let raw = transfer(&funded(0), 0, TO, FEES).1;
    let refused = |words: &str| {
        let text = bench.send(&proxy, &raw).expect_err("nothing is sealed").message().to_owned();
        assert!(text.contains(words) && !text.contains("first key"), "{text}");
        assert!(bench.node.world.lock().taken.is_empty());
    };
    refused("still catches up");
    light.world.lock().no_keys = None;

    // It follows another chain now, or is a node.
    light.world.lock().keys.chain_id.0 += 1;
    refused("another chain");
    light.world.lock().keys.chain_id.0 -= 1;
    light.world.lock().keys.proved = false;
    refused("is not a light client");
    light.world.lock().keys.proved = true;

    // It lags, and so does the node.
    {
        let keys = &mut light.world.lock().keys;
        (keys.epoch, keys.height, keys.keys) = (Epoch(1), Height(41), vec![key(1, 1), key(2, 2)]);
    }
    refused("at block 41 of epoch 1");
    light.world.lock().keys.epoch = Epoch(5);
    refused("is behind: it gives the key of epoch 3");

    // The node lies.
    {
        let keys = &mut light.world.lock().keys;
        (keys.epoch, keys.keys) = (Epoch(3), vec![key(3, 9)]);
    }
    refused("is FALSE");
    // There is none yet.
    let keys = std::mem::take(&mut bench.node.world.lock().keys.keys);
    wait_for("the proxy has looked at the node again", || {
        let text = bench.send(&proxy, &raw).expect_err("there is no key").message().to_owned();
        text.contains("first key is still being made").then_some(())
    });
    bench.node.world.lock().keys.keys = keys.clone();
    light.world.lock().keys.keys = keys;
    wait_for("it is sealed", || bench.send(&proxy, &raw).ok());

    // Proved once in its epoch, it needs no light client any more; the sender's account does.
    let asked = light.asked("l2_epochKey");
    bench.send(&proxy, &transfer(&funded(0), 1, TO, FEES).1).expect("it is sealed");
    assert_eq!((light.asked("l2_epochKey"), bench.node.world.lock().taken.len()), (asked, 2));
    let url = light.url.clone();
    drop(light);
    let text = bench.send(&proxy, &transfer(&funded(0), 2, TO, FEES).1).expect_err("nobody knows the account");
    assert!(text.message().contains(&url), "{text}");
}

#[test]
fn of_a_key_only_what_envelopes_are_sealed_to_is_compared() {
    let bench = Bench::new();
    let light = Fake::light(&bench.runtime);
    light.world.lock().keys.keys[0].members_root = B256::repeat_byte(1);
    let proxy = bench.try_proxy(Some(&light.url)).expect("it starts");
    bench.send(&proxy, &transfer(&funded(0), 0, TO, FEES).1).expect("it is the same key");
}

#[test]
fn at_an_epochs_start_nothing_is_refused_while_the_light_client_has_the_next_key_or_gets_it() {
    let bench = Bench::new();
    let light = Fake::light(&bench.runtime);
    let proxy = bench.try_proxy(Some(&light.url)).expect("it starts");
    let send = |nonce| bench.send(&proxy, &transfer(&funded(0), nonce, TO, FEES).1).expect("it is sealed");
    send(0);
    // The nodes vote in epoch 4 and have dropped the key of 3. The light client is at the last block of 3.
    {
        let keys = &mut bench.node.world.lock().keys;
        (keys.epoch, keys.keys) = (Epoch(4), vec![key(4, 4)]);
    }
    light.world.lock().keys.keys = vec![key(4, 4)];
    look(&bench);
    send(1);
    // Once more, and it has not even that when it is asked first.
    {
        let keys = &mut bench.node.world.lock().keys;
        (keys.epoch, keys.keys) = (Epoch(5), vec![key(5, 5)]);
    }
    let (before, world) = (light.asked("l2_epochKey"), std::sync::Arc::clone(&light.world));
    let catches_up = std::thread::spawn(move || {
        let asked = || world.lock().asked.iter().filter(|(name, _)| *name == "l2_epochKey").count();
        wait_for("it was asked in vain", || (asked() > before).then_some(()));
        let keys = &mut world.lock().keys;
        (keys.epoch, keys.keys) = (Epoch(5), vec![key(5, 5)]);
    });
    look(&bench);
    send(2);
    catches_up.join().expect("it ended");
    let epochs: Vec<u64> = bench.node.world.lock().envelopes().iter().map(|envelope| envelope.epoch.0).collect();
    assert!(epochs.contains(&3) && epochs.contains(&4) && epochs.last() == Some(&5), "{epochs:?}");
}

#[test]
fn with_a_light_client_the_node_is_not_asked_for_senders() {
    let bench = Bench::new();
    let light = Fake::light(&bench.runtime);
    let user = funded(0);
    let asked = |fake: &Fake| {
        let world = fake.world.lock();
        world.asked.iter().filter(|(_, first)| *first == json!(user.address())).count()
    };
    let proxy = bench.try_proxy(Some(&light.url)).expect("it starts");
    light.world.lock().accounts.insert(user.address(), (4, U256::from(5)));
    bench.send(&proxy, &transfer(&user, 4, TO, FEES).1).expect("it is sealed");
    let refused = bench.send(&proxy, &transfer(&user, 3, TO, FEES).1).expect_err("it is used");
    assert!(refused.message().contains("next nonce 4"), "{refused}");
    // One behind a gap is looked after, too.
    bench.send(&proxy, &transfer(&user, 6, TO, FEES).1).expect("it is held");
    look(&bench);
    assert_eq!(asked(&bench.node), 0);
    assert!(asked(&light) >= 4);
    drop(proxy);
    let proxy = bench.proxy();
    bench.send(&proxy, &transfer(&user, 0, TO, FEES).1).expect("the node says that it is the next");
    assert!(asked(&bench.node) >= 2, "without a light client it is");
}

#[test]
fn what_would_show_a_transaction_never_reaches_the_node() {
    let bench = Bench::new();
    let proxy = bench.proxy();
    let raw = transfer(&funded(0), 0, TO, FEES).1;
    for method in ["eth_sendPrivateTransaction", "mev_sendBundle"] {
        let refused = bench.call(&proxy, method, json!([raw])).expect_err("it is not passed on");
        assert_eq!(refused.code(), -32004);
        assert!(refused.message().contains("in the clear"), "{refused}");
        assert_eq!(bench.node.asked(method), 0);
    }
}

#[test]
fn a_receipt_that_is_none_breaks_nothing() {
    let bench = Bench::new();
    let proxy = bench.proxy();
    let (hash, raw) = transfer(&funded(0), 0, TO, FEES);
    bench.send(&proxy, &raw).expect("it is sealed");
    {
        let mut world = bench.node.world.lock();
        (world.payer.nonce, world.state) = (1, Some(EnvelopeState::Failed));
    }
    wait_for("it is known to have failed", || {
        (bench.status(&proxy, hash).status == EnvelopeState::Failed).then_some(())
    });
    // The node knows no receipt of the transaction, and gives rubbish for that of the envelope.
    bench.node.world.lock().no_receipt = Some(hash);
    for rubbish in [json!("0x1"), json!(7), json!([1]), json!(true)] {
        bench.node.world.lock().receipt = rubbish;
        // Until the proxy has seen for itself that nothing ran there is no receipt.
        let refused = wait_for("the receipt is asked for", || {
            bench.call(&proxy, "eth_getTransactionReceipt", json!([hash])).err()
        });
        assert!(refused.message().contains("is no receipt"), "{refused}");
        assert!(bench.call(&proxy, "eth_getTransactionByHash", json!([hash])).is_ok());
    }
}

#[test]
fn a_cancel_is_on_disk_before_it_is_sent() {
    let bench = Bench::new();
    let proxy = bench.proxy();
    let user = funded(0);
    bench.send(&proxy, &transfer(&user, 0, TO, FEES).1).expect("it is sealed");
    let (hash, cancel) = transfer(&user, 0, user.address(), better(110));
    bench.node.world.lock().mute = true;
    bench.send_soon(&proxy, &cancel);
    wait_for("the node has the cancel and has not said so", || {
        (bench.node.world.lock().taken.len() == 2).then_some(())
    });
    // The proxy ends here. The next one goes on with the cancel, also in the next epoch.
    drop(proxy);
    let saved = bench.saved();
    assert_eq!(saved["items"][0]["wanted"], json!(cancel), "{saved}");
    {
        let mut world = bench.node.world.lock();
        (world.mute, world.state) = (false, Some(EnvelopeState::Expired));
        (world.keys.epoch, world.keys.keys) = (Epoch(4), vec![key(4, 4)]);
    }
    let proxy = bench.proxy();
    wait_for("it is sealed again", || (bench.node.world.lock().envelopes().last()?.epoch == Epoch(4)).then_some(()));
    assert_eq!(bench.saved()["items"][0]["attempts"][2]["transaction"], json!(cancel));
    assert_eq!(
        bench.call(&proxy, "eth_getTransactionByHash", json!([hash])).expect("it is known")["hash"],
        json!(hash)
    );
}

#[test]
fn what_is_not_on_disk_is_not_sent_later_either() {
    let bench = Bench::new();
    let proxy = bench.proxy();
    let user = funded(0);
    bench.send(&proxy, &transfer(&user, 0, TO, FEES).1).expect("it is sealed");
    let blocked = bench.dir.path().join("proxy/proxy.json.new");
    std::fs::create_dir(&blocked).expect("it is made");
    let refused = |raw| {
        let text = bench.send(&proxy, raw).expect_err("it cannot be written down").message().to_owned();
        assert!(text.contains("cannot write its state"), "{text}");
    };
    let (other, raw) = transfer(&funded(1), 0, TO, FEES);
    refused(&raw);
    let (cancel, raw) = transfer(&user, 0, user.address(), better(110));
    refused(&raw);
    std::fs::remove_dir(&blocked).expect("it is removed");
    look(&bench);
    assert_eq!(bench.node.world.lock().taken.len(), 1);
    for hash in [other, cancel] {
        assert_eq!(bench.call(&proxy, "eth_getTransactionByHash", json!([hash])).expect("an answer"), json!(null));
    }
    assert_eq!(bench.call(&proxy, "l2_proxy", json!([])).expect("an answer")["pending"], 1);
}

#[test]
fn what_cannot_be_sealed_again_says_why_and_can_be_given_up_for_a_deposit() {
    let bench = Bench::new();
    let proxy = bench.proxy();
    let user = funded(0);
    let (first, raw) = transfer(&user, 0, TO, FEES);
    bench.send(&proxy, &raw).expect("it is sealed");
    let (second, raw) = transfer(&funded(1), 0, TO, FEES);
    bench.send(&proxy, &raw).expect("it is sealed");
    let (deposit, raw) = transfer(&user, 0, proxy_account().address(), better(120));
    let refused = bench.send(&proxy, &raw).expect_err("the first one is under way");
    assert!(refused.message().contains("nothing else by a deposit"), "{refused}");
    {
        let mut world = bench.node.world.lock();
        (world.state, world.refuse) =
            (Some(EnvelopeState::Expired), Some("insufficient funds for the payer".to_owned()));
        world.keys.height.0 += 1_000;
    }
    bench.reason(&proxy, first, "insufficient funds for the payer");
    bench.reason(&proxy, second, "waits behind a transaction of the same payer");
    assert_eq!(bench.status(&proxy, first).status, EnvelopeState::Pending);

    // The payer needs money, and the account's next nonce is the one that waits.
    assert_eq!(bench.send(&proxy, &raw).expect("nothing is under way"), deposit);
    assert!(matches!(bench.node.world.lock().taken.last(), Some(Item::Deposit(_))));
    assert_eq!(bench.call(&proxy, "eth_getTransactionByHash", json!([first])).expect("an answer"), json!(null));

    // Its payer nonce is not left out for ever: the one behind it gets it.
    {
        let mut world = bench.node.world.lock();
        (world.refuse, world.payer.next_nonce) = (None, 0);
    }
    let nonce = wait_for("the other one is sealed again", || {
        let envelopes = bench.node.world.lock().envelopes();
        (envelopes.len() >= 3).then(|| envelopes[2].nonce)
    });
    assert_eq!(nonce, 0);
    wait_for("nothing keeps it any more", || bench.status(&proxy, second).reason.is_none().then_some(()));
}

#[test]
fn a_deposit_that_the_node_refuses_says_why_and_can_be_cancelled() {
    let bench = Bench::new();
    let proxy = bench.proxy();
    let user = funded(0);
    let (deposit, raw) = transfer(&user, 0, proxy_account().address(), FEES);
    bench.send(&proxy, &raw).expect("it is a deposit");
    let (cancel, raw) = transfer(&user, 0, user.address(), better(110));
    let refused = bench.send(&proxy, &raw).expect_err("it is under way");
    assert!(refused.message().contains("can be replaced by a deposit alone"), "{refused}");
    {
        let mut world = bench.node.world.lock();
        (world.state, world.refuse_deposits) = (None, Some("insufficient funds for gas * price + value".to_owned()));
    }
    bench.reason(&proxy, deposit, "the node refuses the deposit: insufficient funds");
    assert_eq!(bench.send(&proxy, &raw).expect("it is given up"), cancel);
    assert_eq!(bench.node.world.lock().envelopes().len(), 1);
    assert_eq!(bench.call(&proxy, "l2_proxy", json!([])).expect("an answer")["pending"], 1);
}

#[test]
fn one_offer_below_the_base_fee_does_not_hold_up_other_accounts() {
    let bench = Bench::new();
    let proxy = bench.proxy();
    let (low, raw) = transfer(&funded(0), 0, TO, Fees { max: 5, tip: 1 });
    bench.send(&proxy, &raw).expect("it is sealed");
    bench.node.world.lock().keys.base_fee = 50;
    // Nobody waits behind it: as on other chains, it waits itself.
    bench.reason(&proxy, low, "less than the base fee of 50");
    bench.node.later(50);
    look(&bench);
    assert_eq!(bench.node.world.lock().taken.len(), 1);

    let (other, raw) = transfer(&funded(1), 0, TO, FEES);
    bench.send(&proxy, &raw).expect("it is sealed");
    let raised = wait_for("the first one offers as much as the second", || {
        let envelopes = bench.node.world.lock().envelopes();
        (envelopes.len() >= 3).then(|| envelopes[2].clone())
    });
    assert_eq!((raised.nonce, raised.max_fee_per_gas), (0, FEES.max as u64));
    wait_for("nothing keeps it any more", || bench.status(&proxy, low).reason.is_none().then_some(()));
    assert_eq!(bench.status(&proxy, other).reason, None);
    look(&bench);
    assert_eq!(bench.node.world.lock().taken.len(), 3, "once is enough");
}
