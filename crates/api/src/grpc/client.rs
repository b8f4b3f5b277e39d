//! The service `Client`: bulk submits and single reads for programs.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use serde_json::value::RawValue;
use tidewheel_engine::effect::Submitted;
use tidewheel_engine::id::TaskId;
use tidewheel_engine::limit;
use tidewheel_engine::task::{Payload, State, Task};
use tidewheel_proto::code::Code;
use tidewheel_proto::rest;
use tidewheel_proto::v1;
use tidewheel_proto::v1::client_server::Client;
use tidewheel_proto::v1::settle_item_request::How;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::caller;
use super::submit::Last;
use crate::auth::Principal;
use crate::auth::guard::{Anyone, Guard, Submitter};
use crate::body;
use crate::problem::{Failure, from_refusal};
use crate::service::{get_task, item, submit_task, wait_task};
use crate::state::Api;
use crate::text::{task_id, task_text};

/// Requests of one stream whose commit is awaited. At 1,000 tasks each and a commit of a few milliseconds, far fewer
/// suffice.
const IN_FLIGHT: usize = 64;
/// How often a stream asks whether its token still stands.
const CHECK: Duration = Duration::from_secs(2);
/// Answers on their way to the client.
const OUT_MESSAGES: usize = 64;

pub(crate) struct ClientService(pub(crate) Api);

#[tonic::async_trait]
impl Client for ClientService {
    type SubmitStreamStream = ReceiverStream<Result<v1::SubmitResponse, Status>>;

    async fn submit_stream(
        &self,
        request: Request<Streaming<v1::SubmitRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        let caller = caller(&self.0, &request, Submitter::ACCESS)?;
        let (out, answers) = mpsc::channel(OUT_MESSAGES);
        tokio::spawn(run(self.0.clone(), caller, request.into_inner(), out));
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitResponse>, Status> {
        let started = Instant::now();
        let caller = caller(&self.0, &request, Submitter::ACCESS)?;
        let mut last = Last::default();
        let prepared = prepare(&self.0, &caller, &mut last, request.into_inner())?;
        let answer = commit(self.0.clone(), caller, prepared).await;
        self.0.metrics.grpc("Submit", started, true);
        Ok(Response::new(answer))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::TaskView>, Status> {
        let started = Instant::now();
        let caller = caller(&self.0, &request, Anyone::ACCESS)?;
        let answer = get(&self.0, &caller, request.into_inner()).await;
        self.0.metrics.grpc("Get", started, answer.is_ok());
        Ok(Response::new(answer?))
    }

    async fn take_items(
        &self,
        request: Request<v1::TakeItemsRequest>,
    ) -> Result<Response<v1::TakeItemsResponse>, Status> {
        let started = Instant::now();
        let caller = caller(&self.0, &request, Submitter::ACCESS)?;
        let answer = take(&self.0, &caller, &request.into_inner()).await;
        self.0.metrics.grpc("TakeItems", started, answer.is_ok());
        Ok(Response::new(answer?))
    }

    async fn settle_item(&self, request: Request<v1::SettleItemRequest>) -> Result<Response<v1::TaskView>, Status> {
        let started = Instant::now();
        let caller = caller(&self.0, &request, Submitter::ACCESS)?;
        let answer = settle(&self.0, &caller, request.into_inner()).await;
        self.0.metrics.grpc("SettleItem", started, answer.is_ok());
        Ok(Response::new(answer?))
    }
}

/// Reads requests and writes answers in their order, with up to [`IN_FLIGHT`] commits awaited between.
async fn run(
    api: Api,
    caller: Principal,
    mut inbound: Streaming<v1::SubmitRequest>,
    out: mpsc::Sender<Result<v1::SubmitResponse, Status>>,
) {
    let mut last = Last::default();
    let mut open = FuturesOrdered::new();
    let mut reading = true;
    let mut check = tokio::time::interval(CHECK);
    while reading || !open.is_empty() {
        tokio::select! {
            message = inbound.message(), if reading && open.len() < IN_FLIGHT => match message {
                Ok(Some(request)) => match prepare(&api, &caller, &mut last, request) {
                    Ok(prepared) => {
                        api.calls.count();
                        open.push_back(commit(api.clone(), caller.clone(), prepared));
                    }
                    Err(failure) => {
                        let _ = out.send(Err(failure.into())).await;
                        return;
                    }
                },
                // What was read is committed and answered if the answer still finds somebody.
                Ok(None) | Err(_) => reading = false,
            },
            Some(answer) = open.next(), if !open.is_empty() => {
                if out.send(Ok(answer)).await.is_err() {
                    reading = false;
                }
            }
            _ = check.tick() => {
                if !caller.is_valid(&api) {
                    let _ = out.send(Err(Status::unauthenticated("the token was revoked or has expired"))).await;
                    return;
                }
            }
        }
    }
}

/// A request whose items were read: refusals stand where their item stood.
struct Pending {
    request: u64,
    outcomes: Vec<Option<Failure>>,
    items: Vec<super::submit::Prepared>,
}

fn prepare(api: &Api, caller: &Principal, last: &mut Last, request: v1::SubmitRequest) -> Result<Pending, Failure> {
    if request.tasks.len() > limit::SUBMIT_ITEMS {
        return Err(Failure::field("/tasks", format!("a request has at most {} tasks", limit::SUBMIT_ITEMS)));
    }
    last.refresh(api, caller.tenant);
    let mut outcomes = Vec::with_capacity(request.tasks.len());
    let mut items = Vec::with_capacity(request.tasks.len());
    for task in request.tasks {
        match last.prepare(api, caller, task) {
            Ok(prepared) => {
                items.push(prepared);
                outcomes.push(None);
            }
            Err(failure) => outcomes.push(Some(failure)),
        }
    }
    Ok(Pending { request: request.request, outcomes, items })
}

/// One command for the whole request; a failure of the call is the outcome of each of its tasks.
async fn commit(api: Api, caller: Principal, request: Pending) -> v1::SubmitResponse {
    let mut items = Vec::with_capacity(request.items.len());
    let mut failed: Option<Failure> = None;
    for prepared in request.items {
        let mut item = prepared.item;
        if let Some(content) = prepared.large {
            match submit_task::payload(&api, caller.tenant, content).await {
                Ok(payload) => {
                    item.input = payload;
                    submit_task::near_input(&mut item);
                }
                Err(failure) => failed = Some(failure),
            }
        }
        items.push(item);
    }
    let mut stored = Vec::new();
    if failed.is_none() && !items.is_empty() {
        let begun = Instant::now();
        match api.runtime.submit(caller.tenant, items).await {
            Ok(outcomes) => {
                api.metrics.routed(begun);
                stored = outcomes;
            }
            Err(error) => failed = Some(error.into()),
        }
    }
    let mut stored = stored.into_iter();
    let mut ids = bytes::BytesMut::with_capacity(request.outcomes.len() * 16);
    let outcomes = request.outcomes.into_iter().map(|refused| {
        let failure = match (refused, &failed) {
            (Some(failure), _) => failure,
            (None, Some(failure)) => failure.clone(),
            (None, None) => match stored.next() {
                Some(Submitted::New(id)) => return accepted(&mut ids, id, false),
                Some(Submitted::Replayed(id)) => return accepted(&mut ids, id, true),
                Some(Submitted::Refused(refusal)) => from_refusal(refusal),
                None => Failure::internal("a submit was answered with too little"),
            },
        };
        api.metrics.rejected(failure.code());
        v1::SubmitOutcome {
            error_code: failure.code().as_str().to_owned(),
            error_detail: failure.0.detail,
            ..v1::SubmitOutcome::default()
        }
    });
    v1::SubmitResponse { request: request.request, outcomes: outcomes.collect() }
}

/// Ids of one answer share an allocation.
fn accepted(ids: &mut bytes::BytesMut, id: TaskId, replayed: bool) -> v1::SubmitOutcome {
    ids.extend_from_slice(&id.to_bytes());
    v1::SubmitOutcome { id: ids.split().freeze(), replayed, ..v1::SubmitOutcome::default() }
}

async fn get(api: &Api, caller: &Principal, request: v1::GetRequest) -> Result<v1::TaskView, Failure> {
    let id: [u8; 16] =
        request.id.as_ref().try_into().map_err(|_| Failure::new(Code::InvalidField, "An id has 16 bytes."))?;
    let wait = Duration::from_millis(u64::from(request.wait_ms));
    let task = wait_task::wait(api, caller, TaskId::from_bytes(id), wait).await?;
    Ok(view(api, &task))
}

async fn take(api: &Api, caller: &Principal, request: &v1::TakeItemsRequest) -> Result<v1::TakeItemsResponse, Failure> {
    let given = |ms: u32| (ms > 0).then(|| rest::DurationText::Millis(ms.into()));
    let wanted = rest::TakeItems {
        lease: given(request.lease_ms),
        max: (request.max > 0).then_some(request.max),
        wait: given(request.wait_ms),
    };
    let taken = item::take(api, caller, &request.queue, &wanted).await?;
    let items = taken.into_iter().map(|one| v1::TakenItem {
        id: task_id(&one.id).map(|id| id.to_bytes().to_vec().into()).unwrap_or_default(),
        token: hex::decode(&one.token).unwrap_or_default().into(),
        input: one.input.map(|raw| Box::<str>::from(raw).into_boxed_bytes().into_vec().into()).unwrap_or_default(),
        input_ref: one.input_ref.unwrap_or_default(),
        attempt: one.attempt,
        max_attempts: one.max_attempts,
        priority: one.priority.into(),
        lease_ms: one.lease_ms,
        key: one.key.unwrap_or_default(),
        labels: one.labels.into_iter().collect(),
    });
    Ok(v1::TakeItemsResponse { items: items.collect() })
}

async fn settle(api: &Api, caller: &Principal, request: v1::SettleItemRequest) -> Result<v1::TaskView, Failure> {
    let id: [u8; 16] =
        request.id.as_ref().try_into().map_err(|_| Failure::new(Code::InvalidField, "An id has 16 bytes."))?;
    let id = TaskId::from_bytes(id);
    let (text, token) = (task_text(id), hex::encode(&request.token));
    let of = item::Wanted { queue: &request.queue, id: &text, token: &token };
    let how = request.how.ok_or_else(|| Failure::field("/how", "say what became of the item"))?;
    let task = match how {
        How::Done(result) if result.is_empty() => item::done(api, caller, of, None).await?,
        How::Done(result) => {
            body::check_json(&result)?;
            let text = String::from_utf8(result.to_vec()).unwrap_or_default();
            let raw = RawValue::from_string(text).map_err(|_| Failure::field("/done", "a result is JSON"))?;
            item::done(api, caller, of, Some(raw)).await?
        }
        How::Failed(error) => {
            let some = |text: String| (!text.is_empty()).then_some(text);
            let failed = rest::ItemFailed {
                token: token.clone(),
                kind: Some(if error.business { "business" } else { "system" }.to_owned()),
                error_type: some(error.r#type),
                message: some(error.message),
                detail: some(error.detail),
            };
            item::fail(api, caller, of, &failed).await?
        }
        How::PostponeMs(ms) => {
            let delay = Some(rest::DurationText::Millis(ms));
            let postponed = rest::ItemPostponed { token: token.clone(), delay, until: None };
            item::postpone(api, caller, of, &postponed).await?
        }
        How::Renew(_) => {
            item::renew(api, caller, of).await?;
            Box::new(get_task::record(api, caller, id).await?)
        }
    };
    Ok(view(api, &task))
}

fn view(api: &Api, task: &Task) -> v1::TaskView {
    let directory = api.runtime.directory();
    let ending = task.ending.as_deref();
    let result = match ending.map(|e| &e.result).filter(|_| task.state == State::Succeeded) {
        Some(Payload::Inline(bytes)) => bytes.clone(),
        _ => bytes::Bytes::new(),
    };
    let error = ending.and_then(|e| e.failure.as_ref()).map(|f| format!("{}: {}", f.kind, f.message));
    v1::TaskView {
        id: task.id.to_bytes().to_vec().into(),
        state: task.state.as_str().to_owned(),
        r#type: directory.type_name(task.kind).map(|n| n.to_string()).unwrap_or_default(),
        queue: directory.queue_by_id(task.queue).map(|q| q.name.to_string()).unwrap_or_default(),
        attempt: task.attempt,
        result,
        error: error.unwrap_or_default(),
    }
}
