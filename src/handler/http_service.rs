//! HTTP services of embedders: any service of tower, such as a `Router` of axum, at paths of the server's own port.

use std::{
    convert::Infallible,
    fmt,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response,
    body::{Body, Frame, SizeHint},
};
use tower_service::Service;

use super::Panicked;
use crate::auth::Identity;

/// The body of a request to a service. It has arrived whole, and is within the limits of the server.
#[derive(Debug, Clone, Default)]
pub struct HttpBody {
    bytes: Bytes,
    /// The body's room among all bodies, which ends when the service has taken the bytes.
    _room: Option<Arc<dyn BodyRoom>>,
}

/// The room of a body in a limit of the server. Its drop gives the room back.
pub(crate) trait BodyRoom: fmt::Debug + Send + Sync {}

impl HttpBody {
    pub(crate) fn new(bytes: Bytes) -> Self {
        HttpBody { bytes, _room: None }
    }

    /// Returns the body with its room.
    pub(crate) fn with_room(self, room: impl BodyRoom + 'static) -> Self {
        HttpBody { _room: Some(Arc::new(room)), ..self }
    }

    /// Returns the bytes of the body.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

impl Body for HttpBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let HttpBody { bytes, .. } = std::mem::take(&mut *self);
        Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

/// The sender of a request to a service. It is among the extensions of the request.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestSender {
    /// The client's address; `None` if the client has gone meanwhile.
    pub peer: Option<SocketAddr>,
    /// The identity that the route's authenticator has found; `None` without an authenticator.
    pub identity: Option<Identity>,
}

/// The body of a service's answer.
pub(crate) type ServiceBody = UnsyncBoxBody<Bytes, io::Error>;

/// The answer of a service, under way.
pub(crate) type Serving = Pin<Box<dyn Future<Output = Result<Response<ServiceBody>, ServiceFault>> + Send>>;

/// The reason for which a service has not answered.
#[derive(Debug)]
pub(crate) enum ServiceFault {
    Failed(String),
    Panicked(Panicked),
}

/// A service of any type.
pub(crate) trait HttpService: Send + Sync {
    /// Calls the service. The future catches all panics of the service.
    fn serve(&self, request: Request<HttpBody>) -> Serving;
}

impl fmt::Debug for dyn HttpService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpService")
    }
}

/// A service of tower. Each request is answered by a clone of its own.
pub(crate) struct OfTower<S>(Mutex<S>);

impl<S> OfTower<S> {
    pub(crate) fn new(service: S) -> Self {
        OfTower(Mutex::new(service))
    }
}

impl<S, B> HttpService for OfTower<S>
where
    S: Service<Request<HttpBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn serve(&self, request: Request<HttpBody>) -> Serving {
        let cloned = Panicked::catch(|| self.0.lock().unwrap_or_else(PoisonError::into_inner).clone());
        Box::pin(async move {
            let mut service = cloned.map_err(ServiceFault::Panicked)?;
            let mut answering = Box::pin(async move {
                poll_fn(|context| service.poll_ready(context)).await?;
                service.call(request).await
            });
            let answered = poll_fn(|context| match Panicked::catch(|| answering.as_mut().poll(context)) {
                Ok(poll) => poll.map(Ok),
                Err(panicked) => Poll::Ready(Err(panicked)),
            });
            let answer = answered.await.map_err(ServiceFault::Panicked)?;
            let answer = answer.map_err(|error: S::Error| ServiceFault::Failed(error.into().to_string()))?;
            Ok(answer.map(|body| body.map_err(io::Error::other).boxed_unsync()))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{Ready, ready},
        task::Waker,
    };

    use http_body_util::Full;

    use super::*;

    /// A service that does what the path of its request says.
    #[derive(Clone)]
    struct Obedient;

    impl Service<Request<HttpBody>> for Obedient {
        type Response = Response<Full<Bytes>>;
        type Error = io::Error;
        type Future = Ready<Result<Self::Response, io::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<HttpBody>) -> Self::Future {
            match request.uri().path() {
                "/panic" => panic!("as it was told"),
                "/fail" => ready(Err(io::Error::other("as it was told"))),
                _ => ready(Ok(Response::new(Full::new(request.into_body().into_bytes())))),
            }
        }
    }

    fn served(path: &str) -> Result<Bytes, ServiceFault> {
        let request = Request::post(path).body(HttpBody::new("body".into())).unwrap();
        let service: Box<dyn HttpService> = Box::new(OfTower::new(Obedient));
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(answer) = service.serve(request).as_mut().poll(&mut context) else { panic!("it waits") };
        let mut body = Box::pin(answer?.into_body().collect());
        let Poll::Ready(body) = body.as_mut().poll(&mut context) else { panic!("it waits") };
        Ok(body.unwrap().to_bytes())
    }

    #[test]
    fn a_service_answers_fails_or_panics() {
        assert_eq!(served("/").unwrap(), "body");
        assert!(matches!(served("/fail"), Err(ServiceFault::Failed(error)) if error == "as it was told"));
        assert!(matches!(served("/panic"), Err(ServiceFault::Panicked(Panicked(text))) if text == "as it was told"));
    }

    #[test]
    fn a_body_is_one_frame() {
        let mut body = Box::pin(HttpBody::new("body".into()));
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(4), false));
        let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(&mut context) else { panic!("no frame") };
        assert_eq!(frame.into_data().unwrap(), "body");
        assert!(body.is_end_stream() && matches!(body.as_mut().poll_frame(&mut context), Poll::Ready(None)));
    }
}
