//! Journal entries with their fields twice: as fields to search by, and in the text, because
//! journalctl shows only the text.

use std::fmt::{Debug, Write};

use tracing::field::{Field, Value, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Layer that appends ` name=value` for each field to the message, as on stderr, and passes the
/// event to the journal's layer.
pub(crate) struct FieldsInText<L>(pub(crate) L);

impl<S: Subscriber, L: Layer<S>> Layer<S> for FieldsInText<L> {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let fields = event.metadata().fields();
        let mut written = EventText { values: vec![None; fields.len()], suffix: String::new() };
        event.record(&mut written);
        if let Some(text) = fields.field(MESSAGE).and_then(|message| written.values.get_mut(message.index())?.as_mut())
        {
            text.push_str(&written.suffix);
        }
        let values: Vec<Option<&dyn Value>> =
            written.values.iter().map(|value| value.as_ref().map(|value| value as &dyn Value)).collect();
        self.0.on_event(&Event::new(event.metadata(), &fields.value_set_all(&values)), context);
    }
}

const MESSAGE: &str = "message";

/// Values of an event as text, by the index of their field, and the suffix for the message.
struct EventText {
    values: Vec<Option<String>>,
    suffix: String,
}

impl EventText {
    fn put(&mut self, field: &Field, value: String) {
        if field.name() != MESSAGE {
            let _ = write!(self.suffix, " {}={value}", field.name());
        }
        if let Some(place) = self.values.get_mut(field.index()) {
            *place = Some(value);
        }
    }
}

impl Visit for EventText {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// Keeps each event's values as the journal's layer would get them.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut written = EventText { values: vec![None; 8], suffix: String::new() };
            event.record(&mut written);
            self.0.lock().unwrap().extend(written.values.into_iter().flatten());
        }
    }

    #[test]
    fn the_text_has_the_fields_and_the_fields_stay() {
        let kept = Kept::default();
        let subscriber = tracing_subscriber::registry().with(FieldsInText(kept.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(stream = %"foo", attempts = 3, "consuming {}", "now");
            tracing::info!("alone");
        });
        let kept = kept.0.lock().unwrap();
        assert_eq!(*kept, ["consuming now stream=foo attempts=3", "foo", "3", "alone"]);
    }
}
