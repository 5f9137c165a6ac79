//! A client of inference-service with tonic.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::future::Future;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use pb::generate_stream_response::Event;
use pb::model_service_client::ModelServiceClient;
use pb::watch_models_response::Event as Change;

// Trap: tonic makes no type of google.rpc. tonic-types has those of error details; a contract that
// imports google.rpc.Status would need `extern_path`, which this one does not.
mod pb {
    tonic::include_proto!("inference_service.v1");
}

type Client = ModelServiceClient<Channel>;
type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "usage: example TARGET [QUIET_SECONDS=600] [CALLS=1200] [PING_SECONDS=10]";
const MODEL: &str = "story-mini";
const PROMPT: &str = "Once upon a time";
/// A call that waits for a service and a cold model needs a deadline.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let target = arguments.next().ok_or(USAGE)?;
    let quiet: f64 = arguments.next().map_or(Ok(600.0), |word| word.parse())?;
    let calls: usize = arguments.next().map_or(Ok(1200), |word| word.parse())?;
    let interval: f64 = arguments.next().map_or(Ok(10.0), |word| word.parse())?;

    let endpoint = Endpoint::from_shared(format!("http://{target}"))?;
    let client = client_of(&endpoint).await?;
    report("cold_start", cold_start(client.clone())).await?;
    report("stream", stream(client.clone())).await?;
    report("cancel", cancel(client.clone())).await?;
    report("deadline", deadline(client.clone())).await?;
    report("violations", violations(client.clone())).await?;
    let quiet = Duration::from_secs_f64(quiet);
    let endpoint = keepalive(endpoint, Duration::from_secs_f64(interval));
    report("quiet_watch", quiet_watch(client.clone(), &endpoint, quiet)).await?;
    report("many", many(client, calls)).await
}

async fn report(name: &str, step: impl Future<Output = Result<Value>>) -> Result<()> {
    let began = Instant::now();
    let mut line = Map::from_iter([("step".into(), json!(name))]);
    line.extend(step.await?.as_object().cloned().unwrap_or_default());
    line.insert("seconds".into(), seconds_since(began));
    println!("{}", Value::from(line));
    Ok(())
}

/// Returns a client once the service answers.
///
/// Trap: tonic knows no service config, so it has neither `waitForReady` nor retries. Until the
/// service is there, each call fails at once.
async fn client_of(endpoint: &Endpoint) -> Result<Client> {
    let began = Instant::now();
    let mut client = ModelServiceClient::new(endpoint.connect_lazy());
    while let Err(error) = client.get_info(patient(pb::GetInfoRequest {})).await {
        if began.elapsed() > PATIENCE {
            return Err(error.into());
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(client)
}

/// Makes a request with a deadline, which the service knows too.
fn patient<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

#[derive(Default)]
struct Seen {
    statuses: Vec<&'static str>,
    texts: Vec<String>,
    first_chunk_seconds: Value,
    finish_reason: &'static str,
}

/// Reads a whole stream: statuses while the model starts, chunks, one summary.
async fn read(mut client: Client) -> Result<Seen> {
    let began = Instant::now();
    let mut seen = Seen::default();
    let request = pb::GenerateStreamRequest {
        max_new_tokens: Some(60),
        status_events: true,
        ..stream_request()
    };
    // Trap: tonic keeps the deadline until the first message, and the service from there on. Its
    // code is DEADLINE_EXCEEDED then.
    let mut responses = client.generate_stream(patient(request)).await?.into_inner();
    while let Some(response) = responses.message().await? {
        match response.event {
            Some(Event::Status(status)) => seen.statuses.push(status.model_state().as_str_name()),
            Some(Event::Chunk(chunk)) => {
                if seen.texts.is_empty() {
                    seen.first_chunk_seconds = seconds_since(began);
                }
                seen.texts.push(chunk.text);
            }
            // Trap: `finish_reason()` is UNSPECIFIED for a value of a later version.
            Some(Event::Summary(summary)) => {
                seen.finish_reason = summary.finish_reason().as_str_name();
            }
            // An event of a later version is None here, to be skipped.
            Some(Event::Resumption(_)) | None => {}
        }
    }
    seen.statuses.dedup();
    check(
        !seen.finish_reason.is_empty(),
        "a stream without a summary has failed",
    )?;
    Ok(seen)
}

async fn cold_start(client: Client) -> Result<Value> {
    stop(client.clone()).await?;
    let seen = read(client).await?;
    check(
        seen.statuses.contains(&"MODEL_STATE_STARTING"),
        "the start was not seen",
    )?;
    Ok(json!({
        "statuses": seen.statuses,
        "chunks": seen.texts.len(),
        "text": seen.texts.concat(),
        "finish_reason": seen.finish_reason,
    }))
}

async fn stream(client: Client) -> Result<Value> {
    let seen = read(client).await?;
    Ok(json!({"chunks": seen.texts.len(), "first_chunk_seconds": seen.first_chunk_seconds}))
}

async fn cancel(mut client: Client) -> Result<Value> {
    let request = pb::GenerateStreamRequest {
        max_new_tokens: Some(500),
        temperature: Some(0.0),
        repetition_penalty: Some(0.1), // it repeats itself, and so it ends at no earlier token
        ..stream_request()
    };
    let mut responses = client.generate_stream(patient(request)).await?.into_inner();
    while !matches!(responses.message().await?, Some(response) if is_chunk(&response)) {}
    // To drop the stream is to cancel the call; nobody is left to whom tonic could tell a code.
    drop(responses);

    let began = Instant::now();
    while active_requests(&mut client).await? > 0 {
        check(
            began.elapsed() < Duration::from_secs(2),
            "the request runs on",
        )?;
    }
    Ok(json!({"code": null, "free_after_seconds": seconds_since(began)}))
}

fn is_chunk(response: &pb::GenerateStreamResponse) -> bool {
    matches!(response.event, Some(Event::Chunk(_)))
}

async fn active_requests(client: &mut Client) -> Result<i32> {
    let request = pb::GetModelRequest {
        model_id: MODEL.into(),
    };
    let model = client.get_model(patient(request)).await?.into_inner().model;
    Ok(model.unwrap_or_default().active_request_count)
}

async fn deadline(mut client: Client) -> Result<Value> {
    let mut request = Request::new(pb::GenerateRequest {
        max_new_tokens: Some(500),
        temperature: Some(0.0),
        repetition_penalty: Some(0.1),
        ..request()
    });
    request.set_timeout(Duration::from_millis(50));
    // Trap: a deadline that tonic itself keeps ends with CANCELLED and "Timeout expired".
    let error = failure(client.generate(request).await)?;
    let (reason, _) = details(&error);
    Ok(json!({"code": name(error.code()), "reason": reason}))
}

async fn violations(mut client: Client) -> Result<Value> {
    let request = pb::GenerateRequest {
        temperature: Some(9.0),
        top_p: Some(7.0),
        ..request()
    };
    let error = failure(client.generate(patient(request)).await)?;
    let (reason, fields) = details(&error);
    Ok(json!({"code": name(error.code()), "reason": reason, "fields": fields}))
}

/// Returns the reason of an error, "" for one of the library's own, and the fields that are wrong.
fn details(error: &Status) -> (String, Vec<String>) {
    let reason = error
        .get_details_error_info()
        .map(|info| info.reason)
        .unwrap_or_default();
    let violations = error
        .get_details_bad_request()
        .map(|bad| bad.field_violations);
    let fields = violations
        .unwrap_or_default()
        .into_iter()
        .map(|violation| violation.field);
    (reason, fields.collect())
}

/// Returns the name of a code as tonic writes it, such as `InvalidArgument`.
fn name(code: Code) -> String {
    format!("{code:?}")
}

fn keepalive(endpoint: Endpoint, interval: Duration) -> Endpoint {
    endpoint
        .http2_keep_alive_interval(interval)
        .keep_alive_timeout(Duration::from_secs(20))
        .keep_alive_while_idle(true)
}

async fn quiet_watch(mut client: Client, endpoint: &Endpoint, quiet: Duration) -> Result<Value> {
    let request = pb::StartModelRequest {
        model_id: MODEL.into(),
        ..Default::default()
    };
    client.start_model(patient(request)).await?;
    let mut watching = client_of(endpoint).await?;
    // A watch has no end, so it has no deadline.
    let request = pb::WatchModelsRequest {
        model_id: MODEL.into(),
        ..Default::default()
    };
    let mut changes = watching.watch_models(request).await?.into_inner();
    while !matches!(next(&mut changes).await?, Some(Change::SnapshotDone(_))) {}
    sleep(quiet).await;
    stop(client).await?;
    loop {
        match next(&mut changes).await? {
            Some(Change::Model(model)) if model.state() == pb::ModelState::Stopped => break,
            _ => {}
        }
    }
    Ok(json!({"alive": true}))
}

/// Returns the next event of a watch, None for one of a later version. The end is an error.
async fn next(changes: &mut tonic::Streaming<pb::WatchModelsResponse>) -> Result<Option<Change>> {
    let change = changes.message().await?.ok_or("the watch has ended")?;
    Ok(change.event)
}

/// Stops the model; one that does not run is stopped.
async fn stop(mut client: Client) -> Result<()> {
    let request = pb::StopModelRequest {
        model_id: MODEL.into(),
        ..Default::default()
    };
    match client.stop_model(patient(request)).await {
        Err(error) if details(&error).0 != "CONTAINER_NOT_RUNNING" => Err(error.into()),
        _ => Ok(()),
    }
}

async fn many(client: Client, calls: usize) -> Result<Value> {
    let mut pending = JoinSet::new();
    for _ in 0..calls {
        let mut client = client.clone(); // of the same connection
        let request = pb::GenerateRequest {
            max_new_tokens: Some(1),
            ..request()
        };
        pending.spawn(async move { client.generate(patient(request)).await });
    }
    let mut refused = BTreeMap::<String, usize>::new();
    for answer in pending.join_all().await {
        if let Err(error) = answer {
            *refused.entry(details(&error).0).or_default() += 1;
        }
    }
    let untyped = refused.remove("").unwrap_or_default();
    check(untyped == 0, "calls failed without a reason")?;
    let ok = calls - refused.values().sum::<usize>();
    Ok(json!({"ok": ok, "refused": refused, "untyped": untyped}))
}

fn request() -> pb::GenerateRequest {
    pb::GenerateRequest {
        model_id: MODEL.into(),
        prompt: PROMPT.into(),
        ..Default::default()
    }
}

fn stream_request() -> pb::GenerateStreamRequest {
    pb::GenerateStreamRequest {
        model_id: MODEL.into(),
        prompt: PROMPT.into(),
        ..Default::default()
    }
}

/// Returns the error of a call that must fail.
fn failure<T>(answer: std::result::Result<T, Status>) -> Result<Status> {
    match answer {
        Ok(_) => Err("the call did not fail".into()),
        Err(error) => Ok(error),
    }
}

fn check(right: bool, otherwise: &str) -> Result<()> {
    if right { Ok(()) } else { Err(otherwise.into()) }
}

fn seconds_since(began: Instant) -> Value {
    json!(began.elapsed().as_millis() as f64 / 1000.0)
}
