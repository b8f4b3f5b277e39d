//! Hostile tasks: each fails with a reason that names the cause, its neighbours go on, and nothing of it lives on. All of it with
//! control groups, where the machine has them, and without.

use tidewheel_proto::v1::{Grant, Resources};

use crate::mock::*;

/// A task that runs beside the others from beginning to end, and a look at the machine after each.
struct Neighbours {
    bench: Bench,
    s: Session,
    flag: std::path::PathBuf,
    count: u32,
}

impl Neighbours {
    /// `None` where control groups are asked for and the machine has none.
    async fn start(control_groups: bool) -> Option<Self> {
        let mut bench = Bench::start_with(|c| {
            c.control_groups = control_groups;
            c.permits = 3;
            c.limits.processes = 40;
            c.limits.output_bytes = 1 << 20;
        })
        .await;
        let mut s = bench.connected().await;
        let kind = s.hello.enforced["cgroup"].clone();
        if control_groups && kind == "none" {
            println!("not run: this machine has no control groups that can be written");
            return None;
        }
        if !kind.starts_with("v2") {
            println!("not run with control groups of version 2: here there is `{kind}`");
        }
        assert_eq!(kind == "none", !control_groups, "{kind}");
        let flag = bench.dir.path().join("flag");
        s.grant(vec![bench.python("neighbour", "wait_for", &serde_json::json!({ "path": flag }).to_string())]).await;
        s.started("neighbour").await;
        Some(Self { bench, s, flag, count: 0 })
    }

    /// Runs one that fails; type and message of its failure.
    async fn fails(&mut self, function: &str, input: &str, change: impl FnOnce(&mut Grant)) -> (String, String) {
        self.count += 1;
        let token = format!("{function}{}", self.count);
        let mut grant = self.bench.python(&token, function, input);
        change(&mut grant);
        self.s.grant(vec![grant]).await;
        let failure = self.s.failure(&token).await;
        self.works().await;
        (failure.r#type, failure.message)
    }

    async fn works(&mut self) {
        self.count += 1;
        let token = format!("after{}", self.count);
        self.s.grant(vec![self.bench.python(&token, "say", r#"{"what": "fine"}"#)]).await;
        assert_eq!(self.s.ok(&token).await, "fine");
        self.s.until("its output", |s| s.lines(&token).len() == 2).await;
    }

    async fn end(mut self) {
        std::fs::write(&self.flag, "").expect("written");
        assert_eq!(self.s.ok("neighbour").await, "seen");
        let marker = format!("TIDEWHEEL_ARTIFACTS={}", self.bench.dir.path().display());
        self.bench.shutdown.cancel();
        self.s.until("goodbye", |s| s.bye).await;
        self.s.hang_up();
        self.bench.end().await.expect("it ends well");
        assert_eq!(processes_of(&marker), Vec::<i32>::new(), "nothing lives on");
    }
}

fn memory(grant: &mut Grant) {
    grant.resources = Some(Resources { memory_bytes: 128 << 20, ..Resources::default() });
}

async fn hostile_tasks(control_groups: bool) {
    let Some(mut n) = Neighbours::start(control_groups).await else { return };
    let (kind, message) = n.fails("hoard", r#"{"megabytes": 4096}"#, memory).await;
    assert!(["memory-limit", "MemoryError"].contains(&kind.as_str()), "{kind}: {message}");
    let (kind, message) = n.fails("hoard_shared", r#"{"megabytes": 512}"#, memory).await;
    assert_eq!(kind, "memory-limit", "{message}");
    let (kind, message) = n.fails("bomb", "null", |_| {}).await;
    assert!(format!("{kind} {message}").contains("process"), "{kind}: {message}");
    let (kind, message) = n.fails("spin", "null", |g| g.run_timeout_ms = 500).await;
    assert_eq!(kind, "timeout", "{message}");
    let (kind, message) = n.fails("quit_hard", "null", |_| {}).await;
    assert!(kind == "worker-exit" && message.contains("code 3"), "{kind}: {message}");
    let (kind, message) = n.fails("leave", "5", |_| {}).await;
    assert!(kind == "SystemExit" && message.contains("sys.exit(5)"), "{kind}: {message}");
    let (kind, message) = n.fails("kill_self", "null", |_| {}).await;
    assert!(kind == "worker-exit" && message.contains("signal 9"), "{kind}: {message}");
    let (kind, message) = n.fails("close_all", "null", |_| {}).await;
    assert_eq!(kind, "worker-exit", "{message}");
    for how in ["json", "length", "codec"] {
        let (kind, message) = n.fails("garble", &format!("\"{how}\""), |_| {}).await;
        assert!(kind == "worker-protocol" && message.contains("cannot read"), "{kind}: {message}");
    }
    let (kind, message) = n.fails("strange", "null", |_| {}).await;
    assert!(kind == "ResultError" && message.contains("JSON"), "{kind}: {message}");
    let (kind, message) = n.fails("big", r#"{"n": 17000000}"#, |_| {}).await;
    assert!(kind == "ResultError" && message.contains("over the bound"), "{kind}: {message}");
    n.s.grant(vec![n.bench.python("chatter", "chatter", r#"{"megabytes": 64}"#)]).await;
    assert_eq!(n.s.ok("chatter").await, "done");
    n.s.until("its last line", |s| s.lines("chatter").last() == Some(&"output truncated")).await;
    n.s.grant(vec![n.bench.python("closed", "close_output", "null")]).await;
    let closed = n.s.ok("closed").await.as_i64().expect("a process id") as i32;
    n.works().await;
    eventually("a process without output is replaced", || !alive(closed)).await;
    let file = n.bench.dir.path().join("daemon");
    n.s.grant(vec![n.bench.python("daemon", "daemon", &serde_json::json!({ "path": file }).to_string())]).await;
    n.s.ok("daemon").await;
    eventually("the daemon is there", || read_pid(&file).is_some()).await;
    let daemon = read_pid(&file).expect("read above");
    eventually("the daemon is gone, with no further task and long before the process would be idle", || !alive(daemon))
        .await;
    n.works().await;
    n.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_tasks_fail_alone_with_control_groups() {
    hostile_tasks(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_tasks_fail_alone_without_control_groups() {
    hostile_tasks(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_gets_no_more_cpu_than_its_limit() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    if s.hello.enforced["cpu"] != "cgroup" {
        println!("not run: CPU cannot be limited here ({:?})", s.hello.enforced);
        return;
    }
    let resources = Some(Resources { cpu_millis: 200, ..Resources::default() });
    s.grant(vec![Grant { resources, ..bench.python("1", "burn", "1.5") }]).await;
    let share = s.ok("1").await.as_f64().expect("a number");
    assert!(share < 0.4, "a fifth of a core was allowed, {share} was used");
}
