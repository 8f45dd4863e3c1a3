//! Topics and channels: create, delete, empty, pause.

use std::sync::Arc;

use axum::extract::State;

use super::HttpApi;
use super::query::RequestQuery;
use super::response::{ApiError, ApiResult, nothing};
use crate::broker::state::Missing;
use crate::proto::{ChannelName, TopicName};

type ApiState = State<Arc<HttpApi>>;

pub(super) async fn create_topic(State(api): ApiState, query: RequestQuery) -> ApiResult {
    let topic = query.topic("INVALID_TOPIC")?;
    api.broker.administer(|state, _| state.create_topic(&topic)).await?;
    Ok(nothing())
}

pub(super) async fn delete_topic(State(api): ApiState, query: RequestQuery) -> ApiResult {
    let topic = existing_topic(&query)?;
    api.broker.administer(|state, _| state.delete_topic(&topic)).await??;
    Ok(nothing())
}

pub(super) async fn empty_topic(State(api): ApiState, query: RequestQuery) -> ApiResult {
    let topic = query.topic("INVALID_TOPIC")?;
    api.broker.administer(|state, _| state.empty_topic(&topic)).await??;
    Ok(nothing())
}

pub(super) async fn pause_topic(State(api): ApiState, query: RequestQuery) -> ApiResult {
    let topic = existing_topic(&query)?;
    api.broker.administer(|state, now| state.pause_topic(&topic, true, now)).await??;
    Ok(nothing())
}

pub(super) async fn unpause_topic(State(api): ApiState, query: RequestQuery) -> ApiResult {
    let topic = existing_topic(&query)?;
    api.broker.administer(|state, now| state.pause_topic(&topic, false, now)).await??;
    Ok(nothing())
}

pub(super) async fn create_channel(State(api): ApiState, query: RequestQuery) -> ApiResult {
    let (topic, channel) = query.channel()?;
    let create = |state: &mut crate::broker::state::BrokerState, now| match state.has_topic(&topic) {
        true => {
            state.create_channel(&topic, &channel, now);
            Ok(())
        }
        false => Err(Missing::Topic),
    };
    api.broker.administer(create).await??;
    Ok(nothing())
}

pub(super) async fn delete_channel(State(api): ApiState, query: RequestQuery) -> ApiResult {
    let (topic, channel) = query.channel()?;
    api.broker.administer(|state, _| state.delete_channel(&topic, &channel)).await??;
    Ok(nothing())
}

pub(super) async fn empty_channel(State(api): ApiState, query: RequestQuery) -> ApiResult {
    let (topic, channel) = query.channel()?;
    api.broker.administer(|state, _| state.empty_channel(&topic, &channel)).await??;
    Ok(nothing())
}

pub(super) async fn pause_channel(State(api): ApiState, query: RequestQuery) -> ApiResult {
    let (topic, channel) = query.channel()?;
    pause(&api, &topic, &channel, true).await
}

pub(super) async fn unpause_channel(State(api): ApiState, query: RequestQuery) -> ApiResult {
    let (topic, channel) = query.channel()?;
    pause(&api, &topic, &channel, false).await
}

async fn pause(api: &HttpApi, topic: &TopicName, channel: &ChannelName, paused: bool) -> ApiResult {
    api.broker.administer(|state, now| state.pause_channel(topic, channel, paused, now)).await??;
    Ok(nothing())
}

/// The name of a topic that the request does not create; an invalid name is reported as a missing
/// topic.
fn existing_topic(query: &RequestQuery) -> Result<TopicName, ApiError> {
    let name = query.get("topic").ok_or_else(|| ApiError::new(400, "MISSING_ARG_TOPIC"))?;
    TopicName::new(name).map_err(|_| Missing::Topic.into())
}
