//! The id that Kafka gave a topic when it was made: what tells a topic from a later one of the same name.
//!
//! rdkafka has no safe form of `DescribeTopics`, so it is called here, once, and nowhere else.

use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{bindings as sys, types};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};
use std::sync::Arc;
use std::time::Duration;

/// What stands for the id where the broker gives none (Apache Kafka before 2.8).
const NONE: &str = "0";
const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The ids of those topics that exist, as Kafka's own tools write them.
///
/// # Errors
/// Where the broker does not answer in time.
pub(super) fn topic_ids<'a, C: ClientContext>(
    client: &Client<C>,
    topics: impl IntoIterator<Item = &'a str>,
    patience: Duration,
) -> KafkaResult<BTreeMap<String, Arc<str>>> {
    let topics: Vec<&str> = topics.into_iter().collect();
    let Some(first) = topics.first() else { return Ok(BTreeMap::new()) };
    let names: Vec<CString> = topics.iter().filter_map(|topic| CString::new(*topic).ok()).collect();
    // By itself librdkafka asks the controller, which may be the one that is away; any broker that answers knows the ids.
    let broker = client.fetch_metadata(Some(first), patience)?.orig_broker_id();
    describe(client, &names, broker, patience)
}

#[expect(unsafe_code, reason = "rdkafka has no safe form of DescribeTopics, and the exactly-once promise needs the id")]
fn describe<C: ClientContext>(
    client: &Client<C>,
    names: &[CString],
    broker: i32,
    patience: Duration,
) -> KafkaResult<BTreeMap<String, Arc<str>>> {
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let wait_ms = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    let mut fault = [0 as c_char; 256];
    let handle = client.native_ptr();
    // SAFETY: the client outlives the call; the names live until the collection has copied them; every object made here is
    // freed here once, and nothing read from the event is kept beyond it.
    unsafe {
        let collection = sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        let operation = types::RDKafkaAdminOp::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = sys::rd_kafka_AdminOptions_new(handle, operation);
        sys::rd_kafka_AdminOptions_set_request_timeout(options, wait_ms, fault.as_mut_ptr(), fault.len());
        sys::rd_kafka_AdminOptions_set_broker(options, broker, fault.as_mut_ptr(), fault.len());
        let queue = sys::rd_kafka_queue_new(handle);
        sys::rd_kafka_DescribeTopics(handle, collection, options, queue);
        // Beyond the request's own time limit, so that its answer is what ends the wait.
        let event = sys::rd_kafka_queue_poll(queue, wait_ms.saturating_add(1000));
        let found = read(event);
        if !event.is_null() {
            sys::rd_kafka_event_destroy(event);
        }
        sys::rd_kafka_queue_destroy(queue);
        sys::rd_kafka_AdminOptions_destroy(options);
        sys::rd_kafka_TopicCollection_destroy(collection);
        found
    }
}

/// The topics of an answer.
#[expect(unsafe_code, reason = "see `describe`")]
unsafe fn read(event: *mut sys::rd_kafka_event_t) -> KafkaResult<BTreeMap<String, Arc<str>>> {
    // SAFETY: the caller gives an event that lives, or null; librdkafka owns all that is read from it.
    unsafe {
        if event.is_null() {
            return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut));
        }
        let fault = sys::rd_kafka_event_error(event);
        if fault != types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(KafkaError::MetadataFetch(fault.into()));
        }
        let answer = sys::rd_kafka_event_DescribeTopics_result(event);
        let mut count = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(answer, &raw mut count);
        let mut found = BTreeMap::new();
        for index in 0..count {
            let topic = *topics.add(index);
            match sys::rd_kafka_error_code(sys::rd_kafka_TopicDescription_error(topic)) {
                types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {}
                // It does not exist.
                types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART => continue,
                other => return Err(KafkaError::MetadataFetch(other.into())),
            }
            let name = CStr::from_ptr(sys::rd_kafka_TopicDescription_name(topic)).to_string_lossy().into_owned();
            let id = sys::rd_kafka_TopicDescription_topic_id(topic);
            let bits = (sys::rd_kafka_Uuid_most_significant_bits(id), sys::rd_kafka_Uuid_least_significant_bits(id));
            found.insert(name, text(bits.0, bits.1));
        }
        Ok(found)
    }
}

/// Base64 for URLs without padding, as `kafka-topics --describe` prints it: it has no slash, which would cut an app id.
fn text(most: i64, least: i64) -> Arc<str> {
    let bits = (u128::from(most.cast_unsigned()) << 64) | u128::from(least.cast_unsigned());
    if bits == 0 {
        return NONE.into();
    }
    let six = |shift: u32| BASE64_URL[((bits >> shift) & 63) as usize] as char;
    // 21 times six bits from the top; the last character holds the two that are left.
    let mut out: String = (0..21).map(|i| six(122 - 6 * i)).collect();
    out.push(BASE64_URL[((bits & 3) << 4) as usize] as char);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_as_kafkas_tools_write_them() {
        assert_eq!(&*text(0, 0), "0");
        assert_eq!(&*text(0, 1), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!(&*text(-1, -1), "_____________________w");
        assert_eq!(&*text(0x0123_4567_89ab_cdef, 0x0fed_cba9_8765_4321), "ASNFZ4mrze8P7cuph2VDIQ");
    }
}
