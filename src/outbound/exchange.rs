//! One request on one connection.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    Request, Response,
    body::{Body as _, Incoming},
    header::{HOST, HeaderValue, USER_AGENT},
};
use tokio::time::{Instant, timeout};

use super::{
    connections::{Connection, Connections},
    error::OutboundError,
    message::{OutboundAnswer, OutboundRequest},
    url::TargetUrl,
};

/// Makes a request, and returns its answer and the connection, on which nothing is left to read.
///
/// A server may close an idle connection at the moment at which a request is sent on it. So a request that fails on a
/// connection which was idle, before the head of an answer, is made once more on a new connection.
///
/// # Errors
///
/// [`OutboundError::Name`], [`OutboundError::Connect`], [`OutboundError::Tls`], [`OutboundError::Exchange`] or
/// [`OutboundError::TooLarge`]. The caller ends the call at `deadline`.
pub(super) async fn exchange(
    connections: &Connections,
    url: &Arc<TargetUrl>,
    request: &OutboundRequest,
    deadline: Instant,
) -> Result<(OutboundAnswer, Connection), OutboundError> {
    if let Some(mut connection) = connections.take(url, Instant::now())
        && let Ok(response) = connection.sender.send_request(head(url, request)?).await
    {
        return Ok((read(response, request.answer_bytes_max).await?, connection));
    }
    let mut connection = connections.open(url, deadline).await?;
    let response = connection.sender.send_request(head(url, request)?).await.map_err(failed)?;
    Ok((read(response, request.answer_bytes_max).await?, connection))
}

/// Keeps a connection for the next request if it is ready for one within [`READY_TIME`]; otherwise closes it.
pub(super) async fn keep(connections: &Connections, mut connection: Connection) {
    if let Ok(Ok(())) = timeout(READY_TIME, connection.sender.ready()).await {
        connections.keep(connection);
    }
}

/// The time that a connection has to become ready after an answer. The answer has been read by then.
const READY_TIME: Duration = Duration::from_millis(100);

/// Returns the request as it is sent.
fn head(url: &TargetUrl, request: &OutboundRequest) -> Result<Request<Full<Bytes>>, OutboundError> {
    let mut head = Request::new(Full::new(request.body.clone()));
    let broken = |error: &dyn ToString| OutboundError::Exchange(error.to_string());
    *head.method_mut() = request.method.clone();
    *head.uri_mut() = url.target().parse().map_err(|error| broken(&error))?;
    *head.headers_mut() = request.headers.clone();
    let host = HeaderValue::from_str(url.authority()).map_err(|error| broken(&error))?;
    head.headers_mut().insert(HOST, host);
    let agent = HeaderValue::from_static(concat!("ringhub/", env!("CARGO_PKG_VERSION")));
    head.headers_mut().insert(USER_AGENT, agent);
    Ok(head)
}

/// Reads the whole body of an answer, up to a number of bytes.
async fn read(response: Response<Incoming>, bytes_max: usize) -> Result<OutboundAnswer, OutboundError> {
    let (head, body) = response.into_parts();
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(OutboundError::TooLarge(bytes_max));
    }
    let body = Limited::new(body, bytes_max).collect().await;
    let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
        Ok(error) => failed(*error),
        Err(error) if error.is::<LengthLimitError>() => OutboundError::TooLarge(bytes_max),
        Err(error) => OutboundError::Exchange(error.to_string()),
    })?;
    Ok(OutboundAnswer { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes() })
}

/// Returns the error of a connection, with its cause.
fn failed(error: hyper::Error) -> OutboundError {
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    OutboundError::Exchange(format!("{error}{cause}"))
}
