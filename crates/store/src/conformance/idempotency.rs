//! Idempotency keys.

use tidewheel_engine::id::{TaskId, TenantId};
use tidewheel_engine::load::{Load, Loaded};
use tidewheel_engine::mutation::{Batch, Mutation};

use super::support::{OTHER, Owner, START, TENANT, id, insert, task};
use super::{Case, Fixture};

pub(super) const CASES: &[Case] = &[
    ("a key is known when its commit is done", known_when_done),
    ("a key that was never given is not known", unknown_is_certain),
    ("keys of two tenants are apart", tenants_are_apart),
    ("the last commit of a key counts", the_last_counts),
    ("keys that differ in one byte are apart", close_keys),
    ("a key of a refused batch is not found", refused_keys),
    ("keys survive a restart", keys_survive),
    ("keys go after their time and not before", keys_expire),
    ("many keys are all found", many_keys),
];

const HOUR: u64 = 3_600_000;

fn hash(number: u64) -> [u8; 16] {
    let digest = blake3::hash(&number.to_le_bytes());
    digest.as_bytes()[..16].try_into().unwrap()
}

fn key_of(tenant: TenantId, hash: [u8; 16], task: TaskId, body: u64, expires: u64) -> Mutation {
    Mutation::PutIdempotency { tenant, hash, task, body, expires }
}

fn key(number: u64) -> Mutation {
    key_of(TENANT, hash(number), id(number), number * 7, START + 24 * HOUR)
}

fn find(owner: &Owner, tenant: TenantId, hash: [u8; 16]) -> Option<(TaskId, u64)> {
    match owner.load(Load::Idempotency { tenant, hash }) {
        Loaded::Idempotency(found) => {
            assert!(found.is_none() || owner.store.may_know(tenant, &hash), "what is there may be known");
            found
        }
        other => panic!("{other:?}"),
    }
}

fn known_when_done(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    for number in 1..=50 {
        owner.commit(vec![insert(task(number)), key(number)]);
        assert!(owner.store.may_know(TENANT, &hash(number)));
        assert_eq!(find(&owner, TENANT, hash(number)), Some((id(number), number * 7)));
    }
    assert_eq!(find(&owner, TENANT, hash(1)), Some((id(1), 7)));
}

fn unknown_is_certain(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit((0..1_000).map(key).collect());
    let wrong = (1_000..11_000).filter(|number| owner.store.may_know(TENANT, &hash(*number))).count();
    assert!(wrong < 500, "{wrong} of 10,000 new keys would cost a read");
    assert_eq!(find(&owner, TENANT, hash(2_000)), None);
}

fn tenants_are_apart(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit(vec![key(1), key_of(OTHER, hash(1), id(2), 5, START + HOUR)]);
    assert_eq!(find(&owner, TENANT, hash(1)), Some((id(1), 7)));
    assert_eq!(find(&owner, OTHER, hash(1)), Some((id(2), 5)));
    assert_eq!(find(&owner, TenantId(3), hash(1)), None);
}

fn the_last_counts(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let put = |task: u64| key_of(TENANT, hash(1), id(task), task, START + 24 * HOUR + task);
    owner.commit(vec![put(1)]);
    owner.commit(vec![put(2), put(3)]);
    assert_eq!(find(&owner, TENANT, hash(1)), Some((id(3), 3)));
    owner.commit((0..500).map(|number| key(100 + number)).chain([put(4)]).collect());
    assert_eq!(find(&owner, TENANT, hash(1)), Some((id(4), 4)));
    fixture.reopen();
    assert_eq!(find(&Owner::of(fixture), TENANT, hash(1)), Some((id(4), 4)));
}

fn close_keys(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let variant = |at: usize| {
        let mut hash = hash(1);
        hash[at] ^= 1;
        hash
    };
    owner.commit((0..16).map(|at| key_of(TENANT, variant(at), id(at as u64), at as u64, START + HOUR)).collect());
    for at in 0..16 {
        assert_eq!(find(&owner, TENANT, variant(at)), Some((id(at as u64), at as u64)));
    }
    assert_eq!(find(&owner, TENANT, hash(1)), None);
}

fn refused_keys(fixture: &mut dyn Fixture) {
    let owner = Owner::of(fixture);
    let stale = Batch { partition: 0, epoch: owner.epoch, index: 5, mutations: vec![key(1)], ..Batch::default() };
    assert!(owner.send(stale).is_err());
    assert_eq!(find(&owner, TENANT, hash(1)), None);
}

fn keys_survive(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    owner.commit((0..300).map(key).collect());
    drop(owner);
    fixture.reopen();
    let mut owner = Owner::of(fixture);
    for number in 0..300 {
        assert!(owner.store.may_know(TENANT, &hash(number)));
        assert_eq!(find(&owner, TENANT, hash(number)), Some((id(number), number * 7)));
    }
    owner.commit((300..600).map(key).collect());
    assert_eq!(find(&owner, TENANT, hash(599)), Some((id(599), 599 * 7)));
    assert_eq!(find(&owner, TENANT, hash(0)), Some((id(0), 0)));
}

fn sweep_keys(owner: &Owner, now: u64) {
    while owner.store.sweep(now, 0, 1_000).unwrap() > 0 {}
}

fn keys_expire(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    let put = |number: u64, hours: u64| key_of(TENANT, hash(number), id(number), 1, START + hours * HOUR);
    owner.commit((0..300).map(|number| put(number, 1 + number % 3)).collect());
    owner.commit(vec![put(1_000, 24)]);
    sweep_keys(&owner, START);
    for number in 0..300 {
        assert!(find(&owner, TENANT, hash(number)).is_some(), "key {number} has time left");
    }
    // A key may be kept for up to an hour longer than it was asked to be.
    sweep_keys(&owner, START + 3 * HOUR);
    for number in 0..300 {
        let found = find(&owner, TENANT, hash(number)).is_some();
        match number % 3 {
            0 => assert!(!found, "key {number} is over for two hours"),
            1 => assert!(!found, "key {number} is over for an hour"),
            _ => {}
        }
    }
    assert!(find(&owner, TENANT, hash(1_000)).is_some());
    owner.commit(vec![put(3, 48)]);
    assert!(find(&owner, TENANT, hash(3)).is_some(), "a key can be used again");
    fixture.reopen();
    let owner = Owner::of(fixture);
    assert_eq!(find(&owner, TENANT, hash(0)), None);
    assert!(find(&owner, TENANT, hash(3)).is_some() && find(&owner, TENANT, hash(1_000)).is_some());
    sweep_keys(&owner, START + 100 * HOUR);
    assert!(find(&owner, TENANT, hash(3)).is_none() && !owner.store.may_know(TENANT, &hash(1_000)));
}

fn many_keys(fixture: &mut dyn Fixture) {
    let mut owner = Owner::of(fixture);
    for part in 0..20u64 {
        owner.commit((part * 1_000..(part + 1) * 1_000).map(key).collect());
    }
    for number in (0..20_000).step_by(37) {
        assert_eq!(find(&owner, TENANT, hash(number)), Some((id(number), number * 7)));
    }
}
