//! The service `Worker`.

use std::pin::Pin;

use futures::Stream;
use tidewheel_proto::v1;
use tidewheel_proto::v1::worker_server::Worker;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{blobs, caller, history, session};
use crate::auth::guard::WORKER_ACCESS;
use crate::state::Api;

pub(crate) struct WorkerService(pub(crate) Api);

#[tonic::async_trait]
impl Worker for WorkerService {
    type ConnectStream = ReceiverStream<Result<v1::ServerMessage, Status>>;
    type FetchPartsStream = Pin<Box<dyn Stream<Item = Result<v1::BlobChunk, Status>> + Send>>;
    type FetchBlobStream = Pin<Box<dyn Stream<Item = Result<v1::BlobChunk, Status>> + Send>>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::WorkerMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let caller = caller(&self.0, &request, WORKER_ACCESS)?;
        let (out, stream) = mpsc::channel(session::OUT_MESSAGES);
        // The stream's task lives as long as the connection; the answer's head leaves at once.
        tokio::spawn(session::run(self.0.clone(), caller, request.into_inner(), out));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn fetch_blob(
        &self,
        request: Request<v1::FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        let caller = caller(&self.0, &request, WORKER_ACCESS)?;
        let stream = blobs::fetch(&self.0, &caller, request.into_inner()).await?;
        Ok(Response::new(Box::pin(stream)))
    }

    async fn package_parts(
        &self,
        request: Request<v1::PackagePartsRequest>,
    ) -> Result<Response<v1::PackagePartsResponse>, Status> {
        let caller = caller(&self.0, &request, WORKER_ACCESS)?;
        Ok(Response::new(blobs::parts_of(&self.0, &caller, request.into_inner()).await?))
    }

    async fn fetch_parts(
        &self,
        request: Request<v1::FetchPartsRequest>,
    ) -> Result<Response<Self::FetchPartsStream>, Status> {
        let caller = caller(&self.0, &request, WORKER_ACCESS)?;
        let stream = blobs::fetch_parts(&self.0, &caller, request.into_inner()).await?;
        Ok(Response::new(Box::pin(stream)))
    }

    async fn history(&self, request: Request<v1::HistoryRequest>) -> Result<Response<v1::HistoryResponse>, Status> {
        let caller = caller(&self.0, &request, WORKER_ACCESS)?;
        Ok(Response::new(history::turns(&self.0, &caller, request.into_inner()).await?))
    }

    async fn put_blob(
        &self,
        request: Request<Streaming<v1::PutBlobRequest>>,
    ) -> Result<Response<v1::PutBlobResponse>, Status> {
        let caller = caller(&self.0, &request, WORKER_ACCESS)?;
        let answer = blobs::put(&self.0, &caller, request.into_inner()).await?;
        Ok(Response::new(answer))
    }
}
