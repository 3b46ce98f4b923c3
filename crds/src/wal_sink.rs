//! Kind `WALSink`: the changes of a WAL's index, delivered to another system.
#![expect(unreachable_pub, reason = "`KubeSchema` repeats the type inside of a function")]

mod spec;
mod status;

pub use self::{
    spec::{
        BulkDestination, RejectedAction, SinkBatch, SinkBreaker, SinkStart, SinkType, SinkWindow, WalSink, WalSinkSpec,
        WebSocketDestination, WebhookDestination,
    },
    status::{SinkBreakerState, SinkPosition, WalSinkStatus},
};
