//! What the store does when the process, the disk or the file lets it down.
//!
//! An error of fsync cannot be made from inside: the chaos tests of the binary inject it with strace.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;

use tempfile::TempDir;
use tidewheel_engine::id::{QueueId, RunId, Slot, TaskId, TenantId, TypeId};
use tidewheel_engine::mutation::{Batch, Mutation, RunRecord};
use tidewheel_engine::run::head::{Head, Identity, Phase};
use tidewheel_engine::task::{Payload, State, Task};
use tidewheel_store::{Error, Store, codec};
use tidewheel_store_sqlite::{Options, SqliteStore};

const TENANT: TenantId = TenantId(1);
/// Set for a child of a test: what it is to do, and where.
const CHILD: &str = "TIDEWHEEL_STORE_CHILD";

fn id(number: u64) -> TaskId {
    TaskId::build(1_750_000_000_000 + number / 10, Slot((number * 31 % 4_096) as u16), 1, number)
}

/// Every third task has an input that is kept apart from its row.
fn task(number: u64) -> Task {
    let mut task = codec::blank_task(TENANT, id(number));
    task.queue = QueueId(1);
    task.kind = TypeId(1);
    task.seq = number;
    task.state = if number.is_multiple_of(2) { State::Running } else { State::Queued };
    task.lane = (task.state == State::Queued).then_some(7);
    let size = if number.is_multiple_of(3) { 3_000 } else { 40 };
    task.input = Payload::Inline(vec![(number % 251) as u8; size].into());
    task
}

/// Batch `index` has the tasks (index - 1) * 10 to index * 10, each with a key, and ends those of the batch before.
fn batch(epoch: u32, index: u64) -> Batch {
    let mut mutations = Vec::new();
    for number in (index - 1) * 10..index * 10 {
        let mut hash = [0; 16];
        hash[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
        mutations.push(Mutation::InsertTask(Box::new(task(number))));
        let expires = u64::MAX >> 2;
        mutations.push(Mutation::PutIdempotency { tenant: TENANT, hash, task: id(number), body: number, expires });
        if let Some(before) = number.checked_sub(10) {
            let over = Task { state: State::Succeeded, lane: None, input: Payload::Cold, ..task(before) };
            mutations.push(Mutation::UpdateTask(Box::new(over)));
        }
    }
    Batch { partition: 0, epoch, index, wall: index, seq: index, mutations }
}

fn commit(store: &SqliteStore, batch: Batch) -> Result<(), Error> {
    let (answer, answered) = channel();
    store.commit(batch, Box::new(move |result| answer.send(result).unwrap()));
    answered.recv().unwrap()
}

/// All of each commit up to `index` is there, and nothing of the next one.
fn assert_whole(store: &SqliteStore, index: u64) {
    for number in 0..index * 10 {
        let mut expected = task(number);
        if number < (index.max(1) - 1) * 10 {
            (expected.state, expected.lane) = (State::Succeeded, None);
        }
        assert_eq!(store.task(TENANT, id(number)).unwrap(), Some(expected), "task {number} of commit {index}");
    }
    for number in index * 10..index * 10 + 10 {
        assert_eq!(store.task(TENANT, id(number)).unwrap(), None);
    }
}

/// A child process that runs one test of this file, which does what `what` says.
fn child(test: &str, what: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    command.env(CHILD, format!("{what}:{}", path.display()));
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

fn asked_for(what: &str) -> Option<PathBuf> {
    let asked = std::env::var(CHILD).ok()?;
    asked.strip_prefix(what)?.strip_prefix(':').map(PathBuf::from)
}

/// The child: commits without end and prints the index of each commit that is done.
fn write_until_killed(path: &Path) -> ! {
    let options = Options { checkpoint_bytes: 1 << 20, ..Options::default() };
    let store = SqliteStore::open(path, options).unwrap();
    let recovered = store.open(0).unwrap();
    println!("opened {}", recovered.last_index);
    let (note, notes) = channel();
    let mut index = recovered.last_index;
    loop {
        index += 1;
        let note = note.clone();
        store.commit(
            batch(recovered.epoch, index),
            Box::new(move |result| {
                result.unwrap();
                // Reported when it is done, as a server's answer would be.
                println!("done {index}");
                note.send(()).unwrap();
            }),
        );
        if index.is_multiple_of(7) {
            notes.recv().unwrap();
        }
    }
}

#[test]
fn what_was_reported_done_is_there_after_kill_9() {
    if let Some(path) = asked_for("write") {
        write_until_killed(&path);
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("tidewheel.db");
    let mut seed = 0x5EED_u64;
    let mut reported = 0;
    for round in 0..8 {
        let mut running =
            child("faults::what_was_reported_done_is_there_after_kill_9", "write", &path).spawn().unwrap();
        let lines = BufReader::new(running.stdout.take().unwrap()).lines();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let after = reported + 1 + (seed >> 33) % 150;
        for line in lines {
            let line = line.unwrap();
            if let Some(index) = line.split("done ").nth(1) {
                reported = reported.max(index.parse().unwrap());
                if reported == after {
                    running.kill().unwrap();
                }
            }
        }
        running.wait().unwrap();
        let store = SqliteStore::open(&path, Options::default()).unwrap();
        store.verify().unwrap();
        let recovered = store.open(0).unwrap();
        assert!(recovered.last_index >= reported, "commit {reported} was reported, {} are there", recovered.last_index);
        reported = recovered.last_index;
        assert_whole(&store, reported);
        let running: Vec<_> = recovered.running.iter().map(|task| task.id).collect();
        let mut expected: Vec<_> = (reported * 10 - 10..reported * 10).filter(|n| n % 2 == 0).map(id).collect();
        expected.sort();
        assert_eq!(running, expected, "round {round}");
        store.close();
    }
    assert!(reported > 8);
}

#[test]
fn a_second_process_is_refused_and_told_who_is_first() {
    if let Some(path) = asked_for("open") {
        let error = SqliteStore::open(&path, Options::default()).err().map(|error| error.to_string());
        println!("answer {}", error.unwrap_or_default());
        return;
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("tidewheel.db");
    let store = SqliteStore::open(&path, Options::default()).unwrap();
    let ask = || {
        let mut child = child("faults::a_second_process_is_refused_and_told_who_is_first", "open", &path);
        let output = String::from_utf8(child.output().unwrap().stdout).unwrap();
        output.split("answer ").nth(1).unwrap().lines().next().unwrap().to_owned()
    };
    let refused = ask();
    assert!(refused.contains(&format!("is in use by process {}", std::process::id())), "{refused}");
    assert!(SqliteStore::open(&path, Options::default()).is_err(), "not in the same process either");
    store.close();
    assert_eq!(ask(), "");
}

#[test]
fn a_full_database_refuses_whole_batches_and_goes_on_when_there_is_room() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("tidewheel.db");
    let store = SqliteStore::open(&path, Options { max_bytes: 1 << 20, ..Options::default() }).unwrap();
    let epoch = store.open(0).unwrap().epoch;
    let mut index = 0;
    let error = loop {
        match commit(&store, batch(epoch, index + 1)) {
            Ok(()) => index += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Full(_)) && error.is_retryable(), "{error:?}");
    assert!(index > 5);
    assert_whole(&store, index);
    // A batch that needs no room lands, under the index that the failed one did not take.
    let small = Batch { mutations: Vec::new(), ..batch(epoch, index + 1) };
    commit(&store, small).unwrap();
    store.close();
    let store = SqliteStore::open(&path, Options::default()).unwrap();
    store.verify().unwrap();
    let recovered = store.open(0).unwrap();
    assert_eq!(recovered.last_index, index + 1);
    assert_whole(&store, index);
}

/// A file system of a few megabytes, if this machine and user can have one.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(megabytes: u32) -> Option<SmallDisk> {
        let folder = TempDir::new().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"]).arg(folder.path());
        mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success()).then_some(SmallDisk(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg(self.0.path()).status().unwrap();
    }
}

#[test]
fn a_full_disk_loses_nothing_and_ends_when_room_is_made() {
    let Some(disk) = SmallDisk::mount(12) else {
        println!("not run: this user cannot mount a small file system");
        return;
    };
    let path = disk.0.path().join("tidewheel.db");
    let filler = disk.0.path().join("filler");
    std::fs::write(&filler, vec![0; 6 << 20]).unwrap();
    let options = Options { checkpoint_bytes: 1 << 20, ..Options::default() };
    let store = SqliteStore::open(&path, options).unwrap();
    let epoch = store.open(0).unwrap().epoch;
    let mut index = 0;
    let fill = |index: &mut u64| loop {
        match commit(&store, batch(epoch, *index + 1)) {
            Ok(()) => *index += 1,
            Err(error) => break error,
        }
    };
    let error = fill(&mut index);
    assert!(matches!(error, Error::Full(_)), "{error:?}");
    assert_whole(&store, index);
    // The disk stays full: each try fails, none changes anything, and reads go on.
    for _ in 0..20 {
        assert!(matches!(commit(&store, batch(epoch, index + 1)), Err(Error::Full(_))));
    }
    assert_whole(&store, index);
    std::fs::remove_file(&filler).unwrap();
    let before = index;
    let error = fill(&mut index);
    assert!(matches!(error, Error::Full(_)) && index > before + 10, "{error:?}");
    assert_whole(&store, index);
    store.close();
    let copy = TempDir::new().unwrap();
    for name in ["tidewheel.db", "tidewheel.db-wal"] {
        // The log may be empty and gone.
        let _ = std::fs::copy(disk.0.path().join(name), copy.path().join(name));
    }
    let store = SqliteStore::open(&copy.path().join("tidewheel.db"), Options::default()).unwrap();
    store.verify().unwrap();
    assert_eq!(store.open(0).unwrap().last_index, index);
    assert_whole(&store, index);
}

/// A closed database with some content.
fn sample(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("tidewheel.db");
    let store = SqliteStore::open(&path, Options::default()).unwrap();
    let epoch = store.open(0).unwrap().epoch;
    for index in 1..=100 {
        commit(&store, batch(epoch, index)).unwrap();
    }
    store.close();
    path
}

fn damage(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_file_is_refused_or_found_by_a_check() {
    let open = |path: &Path| SqliteStore::open(path, Options::default());
    let folder = TempDir::new().unwrap();
    let path = sample(&folder);
    damage(&path, |bytes| bytes[..16].fill(b'x'));
    assert!(matches!(open(&path), Err(Error::Corrupt(_))), "not a database");

    let folder = TempDir::new().unwrap();
    let path = sample(&folder);
    damage(&path, |bytes| bytes.truncate(bytes.len() / 2));
    match open(&path) {
        Err(error) => assert!(matches!(error, Error::Corrupt(_)), "{error:?}"),
        Ok(store) => assert!(matches!(store.verify(), Err(Error::Corrupt(_))), "half of it is gone"),
    }

    let folder = TempDir::new().unwrap();
    let path = sample(&folder);
    damage(&path, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle..middle + 8_192].fill(0xFF);
    });
    match open(&path) {
        Err(error) => assert!(matches!(error, Error::Corrupt(_)), "{error:?}"),
        Ok(store) => assert!(matches!(store.verify(), Err(Error::Corrupt(_))), "two pages are overwritten"),
    }
}

#[test]
fn a_torn_log_gives_up_its_last_commits_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("tidewheel.db");
    let store = SqliteStore::open(&path, Options::default()).unwrap();
    let epoch = store.open(0).unwrap().epoch;
    for index in 1..=50 {
        commit(&store, batch(epoch, index)).unwrap();
    }
    // As a power loss would leave it: copied while it is in use, with the end of the log torn off.
    let log = path.with_file_name("tidewheel.db-wal");
    let whole = std::fs::read(&log).unwrap();
    for cut in [1, 24, 4_096, 10_000, whole.len() / 2] {
        let torn = TempDir::new().unwrap();
        let copy = torn.path().join("tidewheel.db");
        std::fs::copy(&path, &copy).unwrap();
        std::fs::write(torn.path().join("tidewheel.db-wal"), &whole[..whole.len() - cut]).unwrap();
        let torn = SqliteStore::open(&copy, Options::default()).unwrap();
        torn.verify().unwrap();
        let last = torn.open(0).unwrap().last_index;
        assert!(last < 50);
        assert_whole(&torn, last);
    }
}

#[test]
fn a_database_of_a_newer_program_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = sample(&folder);
    let connection = rusqlite::Connection::open(&path).unwrap();
    let newer = "INSERT INTO refinery_schema_history (version, name, applied_on, checksum) \
                 VALUES (99, 'later', '2030-01-01T00:00:00Z', '1')";
    connection.execute(newer, []).unwrap();
    drop(connection);
    let error = SqliteStore::open(&path, Options::default()).err();
    assert!(matches!(error, Some(Error::TooNew(_))), "{error:?}");
}

#[test]
fn a_database_of_the_first_schema_is_brought_up_to_date_with_all_it_has() {
    let folder = TempDir::new().unwrap();
    let path = sample(&folder);
    let connection = rusqlite::Connection::open(&path).unwrap();
    // As the first schema had it.
    let before = "CREATE TABLE old (key BLOB NOT NULL, part INTEGER NOT NULL, bytes BLOB NOT NULL,
                      PRIMARY KEY (key, part)) WITHOUT ROWID;
                  INSERT INTO old SELECT key, part, bytes FROM payload;
                  DROP TABLE payload;
                  ALTER TABLE old RENAME TO payload;
                  DROP TABLE run; DROP TABLE run_mark; DROP TABLE run_turn; DROP TABLE run_event; DROP TABLE run_long;
                  DROP TABLE run_timer; DROP TABLE value; DROP TABLE value_name;
                  DELETE FROM refinery_schema_history WHERE version >= 2;";
    connection.execute_batch(before).unwrap();
    drop(connection);
    let store = SqliteStore::open(&path, Options::default()).unwrap();
    store.verify().unwrap();
    assert_eq!(store.open(0).unwrap().last_index, 100);
    assert_whole(&store, 100);
}

#[test]
fn values_from_before_names_were_written_down_stay() {
    let folder = TempDir::new().unwrap();
    let path = sample(&folder);
    let store = SqliteStore::open(&path, Options::default()).unwrap();
    let epoch = store.open(0).unwrap().epoch;
    let (tenant, run) = (TENANT, RunId(7));
    let put = |byte: u8| Mutation::PutValue { tenant, run, hash: [byte; 32], bytes: vec![byte; 70_000].into() };
    let of = |index: u64, mutations: Vec<Mutation>| Batch { mutations, ..batch(epoch, index) };
    commit(&store, of(101, vec![put(1)])).unwrap();
    drop(store);
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("DROP TABLE value_name; DELETE FROM refinery_schema_history WHERE version >= 4;").unwrap();
    drop(connection);
    let store = SqliteStore::open(&path, Options::default()).unwrap();
    let epoch = store.open(0).unwrap().epoch;
    let of = |index: u64, mutations: Vec<Mutation>| Batch { mutations, ..batch(epoch, index) };
    let identity = Identity {
        run,
        plan: [7; 32],
        namespace: "shop".into(),
        name: "order".into(),
        version: "1.0.0".into(),
        parent: None,
        correlation: None,
        depth: 0,
    };
    let head = Head { phase: Phase::Completed, ended_ms: 5, ..Head::new(Arc::new(identity)) };
    let ended = Mutation::PutRun(Box::new(RunRecord { tenant, changed: 5, head }));
    commit(&store, of(102, vec![put(1), put(2), ended])).unwrap();
    assert_eq!(store.sweep_runs(6, 10).unwrap(), 1);
    let is_there = |byte: u8| store.value(tenant, &[byte; 32]).unwrap().is_some();
    assert_eq!((is_there(1), is_there(2)), (true, false));
}

#[test]
fn a_backup_is_made_while_commits_go_on_and_is_a_whole_store() {
    let folder = TempDir::new().unwrap();
    let store = SqliteStore::open(&folder.path().join("tidewheel.db"), Options::default()).unwrap();
    let epoch = store.open(0).unwrap().epoch;
    for index in 1..=50 {
        commit(&store, batch(epoch, index)).unwrap();
    }
    let copy = folder.path().join("copy.db");
    let writer = std::thread::spawn({
        let store = Arc::clone(&store);
        move || (51..=200).for_each(|index| commit(&store, batch(epoch, index)).unwrap())
    });
    store.backup(&copy).unwrap();
    writer.join().unwrap();
    assert!(store.backup(&copy).is_err(), "a backup does not overwrite a file");
    let restored = SqliteStore::open(&copy, Options::default()).unwrap();
    restored.verify().unwrap();
    let recovered = restored.open(0).unwrap();
    assert!((50..=200).contains(&recovered.last_index));
    assert_whole(&restored, recovered.last_index);
    assert_whole(&store, 200);
}

#[test]
fn the_log_stays_short_under_steady_writes_and_is_empty_when_idle() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("tidewheel.db");
    let limit = 1 << 20;
    let store = SqliteStore::open(&path, Options { checkpoint_bytes: limit, ..Options::default() }).unwrap();
    let epoch = store.open(0).unwrap().epoch;
    let mut longest = 0;
    for index in 1..=600 {
        commit(&store, batch(epoch, index)).unwrap();
        longest = longest.max(store.figures().wal_bytes);
    }
    let figures = store.figures();
    assert!(longest > limit && longest < 8 * limit, "{longest} bytes");
    assert!(figures.fsyncs > figures.commits && figures.fsyncs < 2 * figures.commits, "{figures:?}");
    store.close();
    let log = std::fs::metadata(path.with_file_name("tidewheel.db-wal")).map_or(0, |log| log.len());
    assert_eq!(log, 0, "a closed store needs its database only");
}
