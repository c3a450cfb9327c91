//! Who answers for the judge: an endpoint, or a model on this machine.

use super::super::Error;
use super::question::Form;
use crate::config::{Explore, JudgeScore};
use crate::domain::ChatMessage;
use crate::model::Model;
use crate::tao::endpoint::{self, Chat, Endpoint, Spent};
use crate::tao::{Watch, explore};
use candle_core::Device;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// Answers, each for itself.
pub(super) type Answers = Vec<Result<String, endpoint::Error>>;

#[derive(Debug)]
pub(super) enum Backend {
    /// With whether the server decodes by a schema: some refuse `response_format`.
    Endpoint { endpoint: Box<Endpoint>, structured: AtomicBool, tokens_max: usize },
    /// With its folder's hash as its name.
    Local { model: Box<Model>, tokens_max: usize },
}

impl Backend {
    pub(super) fn open(settings: &JudgeScore, resolve: &dyn Fn(&str) -> PathBuf) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Setting { name: "judge".to_owned(), reason };
        let tokens_max = settings.tokens_max;
        match (&settings.endpoint, &settings.model) {
            (Some(endpoint), None) => {
                let endpoint = Box::new(Endpoint::open(endpoint).map_err(|e| wrong(e.to_string()))?);
                Ok(Self::Endpoint { endpoint, structured: AtomicBool::new(true), tokens_max })
            }
            (None, Some(folder)) => {
                let model = Model::load(&resolve(folder), &Device::Cpu)
                    .map_err(|source| Error::Model { name: "judge", source })?;
                Ok(Self::Local { model: Box::new(model), tokens_max })
            }
            _ => Err(wrong("give either `endpoint` with `url` and `model`, or `model` with a folder".to_owned())),
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Endpoint { endpoint, .. } => endpoint.model(),
            Self::Local { model, .. } => model.content_hash(),
        }
    }

    pub(super) fn spent(&self) -> Option<Spent> {
        match self {
            Self::Endpoint { endpoint, .. } => Some(endpoint.spent()),
            Self::Local { .. } => None,
        }
    }

    pub(super) fn answers(
        &self,
        conversations: &[Vec<ChatMessage>],
        form: Option<Form>,
        watch: &Watch<'_>,
    ) -> Result<Answers, Error> {
        let Some(form) = form.filter(|_| !conversations.is_empty()) else { return Ok(Vec::new()) };
        match self {
            Self::Local { model, tokens_max } => {
                let options = Explore { tokens_max: *tokens_max, ..Explore::default() };
                let texts = explore::answer_greedily(model, None, conversations, &options).map_err(|e| match e {
                    explore::Error::Model(source) => Error::Model { name: "judge", source },
                    other => Error::Setting { name: "judge".to_owned(), reason: other.to_string() },
                })?;
                Ok(texts.into_iter().map(|(text, _)| Ok(text)).collect())
            }
            Self::Endpoint { endpoint, structured, tokens_max } => {
                let chat = |messages: &Vec<ChatMessage>| Chat::new(messages.clone(), *tokens_max);
                if structured.load(Ordering::Relaxed) {
                    let formed = |m| Chat { response_format: Some(form.response_format()), ..chat(m) };
                    // One call finds out whether the server takes a schema, so that not all are refused.
                    let first = texts(endpoint.ask_all("judge", &[formed(&conversations[0])], watch));
                    if !matches!(first.first(), Some(Err(e)) if refuses_schema(e)) {
                        let rest: Vec<Chat> = conversations[1..].iter().map(formed).collect();
                        return Ok(first.into_iter().chain(texts(endpoint.ask_all("judge", &rest, watch))).collect());
                    }
                    structured.store(false, Ordering::Relaxed);
                }
                Ok(texts(endpoint.ask_all("judge", &conversations.iter().map(chat).collect::<Vec<_>>(), watch)))
            }
        }
    }
}

fn refuses_schema(error: &endpoint::Error) -> bool {
    matches!(error, endpoint::Error::Refused { status: 400 | 422, body, .. } if body.contains("response_format"))
}

fn texts(replies: Vec<Result<endpoint::Reply, endpoint::Error>>) -> Answers {
    let first = |reply: endpoint::Reply| reply.choices.into_iter().next().map(|c| c.text).unwrap_or_default();
    replies.into_iter().map(|reply| reply.map(first)).collect()
}
