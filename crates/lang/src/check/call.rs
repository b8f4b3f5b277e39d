//! Calls.

use tidewheel_engine::run::plan::Protocol;

use super::Checker;
use super::fields::Fields;
use super::format;
use crate::model::{AuthenticationRef, Call, Endpoint, Iterator, Resource};
use crate::text::{At, Node};

/// What a call's arguments hold that the compiler wants by itself.
#[derive(Default)]
struct Parts {
    endpoint: Option<Endpoint>,
    authentication: Option<AuthenticationRef>,
    resource: Option<Resource>,
    foreach: Option<Iterator>,
}

impl Checker<'_> {
    pub(super) fn call(&mut self, fields: &mut Fields) -> Option<Call> {
        let name = self.need(fields, "call", Self::text);
        if name.is_none() {
            self.opt(fields, "with", Self::any);
        }
        let protocol = match &*name.as_ref()?.text {
            "asyncapi" => Protocol::AsyncApi,
            "grpc" => Protocol::Grpc,
            "http" => Protocol::Http,
            "openapi" => Protocol::OpenApi,
            "a2a" => Protocol::A2a,
            "mcp" => Protocol::Mcp,
            _ => {
                let with = self.opt(fields, "with", Self::map);
                return Some(Call::Function { name: name?, with });
            }
        };
        let (with, parts) = self.need(fields, "with", |this, at| {
            let mut fields = this.fields(at, "this call")?;
            let mut parts = Parts::default();
            match protocol {
                Protocol::AsyncApi => this.asyncapi(&mut fields, &mut parts),
                Protocol::Grpc => this.grpc(&mut fields, &mut parts),
                Protocol::Http => this.http(&mut fields, &mut parts),
                Protocol::OpenApi => this.openapi(&mut fields, &mut parts),
                Protocol::A2a => this.a2a(&mut fields, &mut parts),
                Protocol::Mcp => {
                    this.mcp(&mut fields);
                    this.open(fields);
                    return Some((at, parts));
                }
            }
            this.close(fields);
            Some((at, parts))
        })?;
        let Parts { endpoint, authentication, resource, foreach } = parts;
        Some(Call::Protocol { protocol, with, endpoint, authentication, resource, foreach })
    }

    fn http(&mut self, fields: &mut Fields, parts: &mut Parts) {
        self.need(fields, "method", Self::text);
        parts.endpoint = self.need(fields, "endpoint", Self::endpoint);
        self.opt(fields, "headers", Self::texts_or_expression);
        self.opt(fields, "body", Self::any);
        self.opt(fields, "query", Self::texts_or_expression);
        self.response(fields);
    }

    fn response(&mut self, fields: &mut Fields) {
        self.opt(fields, "output", |this, at| this.word(at, &["raw", "content", "response"]));
        self.opt(fields, "redirect", Self::boolean);
    }

    fn texts_or_expression(&mut self, at: At) -> Option<At> {
        match self.tree.node(at) {
            Node::String(_) => self.expression(at).map(|_| at),
            _ => self.texts(at),
        }
    }

    fn openapi(&mut self, fields: &mut Fields, parts: &mut Parts) {
        parts.resource = self.need(fields, "document", Self::resource);
        self.need(fields, "operationId", Self::text);
        self.opt(fields, "parameters", Self::map);
        parts.authentication = self.opt(fields, "authentication", Self::authentication_ref);
        self.response(fields);
    }

    fn grpc(&mut self, fields: &mut Fields, parts: &mut Parts) {
        parts.resource = self.need(fields, "proto", Self::resource);
        parts.authentication = self
            .need(fields, "service", |this, at| {
                let mut fields = this.fields(at, "a service")?;
                this.need(&mut fields, "name", Self::text);
                this.need(&mut fields, "host", |this, at| this.pattern(at, format::host, "the name of a host"));
                this.opt(&mut fields, "port", |this, at| {
                    let port = this.whole(at)?;
                    if !(0..=65_535).contains(&port) {
                        this.error(at, "wrong-value", format!("{port} is not a port: 0 to 65535"));
                    }
                    Some(())
                });
                let authentication = this.opt(&mut fields, "authentication", Self::authentication_ref);
                this.close(fields);
                Some(authentication)
            })
            .flatten();
        self.need(fields, "method", Self::text);
        self.opt(fields, "arguments", Self::map);
    }

    fn asyncapi(&mut self, fields: &mut Fields, parts: &mut Parts) {
        const PROTOCOLS: [&str; 19] = [
            "amqp",
            "amqp1",
            "anypointmq",
            "googlepubsub",
            "http",
            "ibmmq",
            "jms",
            "kafka",
            "mercure",
            "mqtt",
            "mqtt5",
            "nats",
            "pulsar",
            "redis",
            "sns",
            "solace",
            "sqs",
            "stomp",
            "ws",
        ];
        parts.resource = self.need(fields, "document", Self::resource);
        self.choice(fields, &["operation", "channel"]);
        self.choice(fields, &["message", "subscription"]);
        self.opt(fields, "operation", Self::text);
        self.opt(fields, "channel", Self::text);
        self.opt(fields, "server", |this, at| {
            let mut fields = this.fields(at, "a server")?;
            this.need(&mut fields, "name", Self::text);
            this.opt(&mut fields, "variables", Self::map);
            this.close(fields);
            Some(())
        });
        self.opt(fields, "protocol", |this, at| this.word(at, &PROTOCOLS));
        self.opt(fields, "message", |this, at| {
            let mut fields = this.fields(at, "a message")?;
            this.opt(&mut fields, "payload", Self::map);
            this.opt(&mut fields, "headers", Self::map);
            this.close(fields);
            Some(())
        });
        parts.foreach = self
            .opt(fields, "subscription", |this, at| {
                let mut fields = this.fields(at, "a subscription")?;
                this.opt(&mut fields, "filter", Self::expression);
                this.need(&mut fields, "consume", Self::consume);
                let foreach = this.opt(&mut fields, "foreach", Self::iterator);
                this.close(fields);
                Some(foreach)
            })
            .flatten();
        parts.authentication = self.opt(fields, "authentication", Self::authentication_ref);
    }

    fn consume(&mut self, at: At) -> Option<()> {
        let mut fields = self.fields(at, "`consume`")?;
        self.opt(&mut fields, "for", Self::duration);
        self.choice(&mut fields, &["amount", "while", "until"]);
        self.opt(&mut fields, "amount", Self::whole);
        self.opt(&mut fields, "while", Self::expression);
        self.opt(&mut fields, "until", Self::expression);
        self.close(fields);
        Some(())
    }

    fn a2a(&mut self, fields: &mut Fields, parts: &mut Parts) {
        const METHODS: [&str; 11] = [
            "message/send",
            "message/stream",
            "tasks/get",
            "tasks/list",
            "tasks/cancel",
            "tasks/resubscribe",
            "tasks/pushNotificationConfig/set",
            "tasks/pushNotificationConfig/get",
            "tasks/pushNotificationConfig/list",
            "tasks/pushNotificationConfig/delete",
            "agent/getAuthenticatedExtendedCard",
        ];
        parts.resource = self.opt(fields, "agentCard", Self::resource);
        parts.endpoint = self.opt(fields, "server", Self::endpoint);
        self.need(fields, "method", |this, at| this.word(at, &METHODS));
        self.opt(fields, "parameters", |this, at| {
            if matches!(this.tree.node(at), Node::Map(entries) if entries.is_empty()) {
                this.error(at, "missing-field", "the parameters may not be empty").hint = Some("drop them".to_string());
            }
            this.map_or_text(at)
        });
    }

    fn mcp(&mut self, fields: &mut Fields) {
        const METHODS: [&str; 7] = [
            "tools/list",
            "tools/call",
            "prompts/list",
            "prompts/get",
            "resources/list",
            "resources/read",
            "resources/templates/list",
        ];
        self.opt(fields, "protocolVersion", Self::text);
        self.need(fields, "method", |this, at| this.word(at, &METHODS));
        self.opt(fields, "parameters", Self::map_or_text);
        self.opt(fields, "timeout", Self::duration);
        self.need(fields, "transport", Self::transport);
        self.opt(fields, "client", |this, at| {
            let mut fields = this.fields(at, "a client")?;
            this.need(&mut fields, "name", Self::text);
            if this.next() {
                this.need(&mut fields, "version", Self::text);
            } else {
                this.need(&mut fields, "version", Self::any);
                this.opt(&mut fields, "description", Self::text);
            }
            this.open(fields);
            Some(())
        });
    }

    fn transport(&mut self, at: At) -> Option<()> {
        let mut fields = self.fields(at, "a transport")?;
        self.choice(&mut fields, &["http", "stdio"]);
        self.opt(&mut fields, "http", |this, at| {
            let mut fields = this.fields(at, "an HTTP transport")?;
            this.need(&mut fields, "endpoint", Self::endpoint);
            this.opt(&mut fields, "headers", Self::texts);
            this.open(fields);
            Some(())
        });
        self.opt(&mut fields, "stdio", |this, at| {
            let mut fields = this.fields(at, "a stdio transport")?;
            this.need(&mut fields, "command", Self::text);
            this.opt(&mut fields, "arguments", |this, at| this.list(at, Self::text));
            this.opt(&mut fields, "environment", Self::texts);
            this.open(fields);
            Some(())
        });
        self.opt(&mut fields, "options", Self::texts);
        self.open(fields);
        Some(())
    }
}
