//! The judgement of a case: pure, from its record and from what the target promises.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::faults::{DiskFault, FaultKind};
use super::history::{CaseHistory, ConsumerReply, DeliveryRecord, FaultRecord, MessageRecord};

/// Brokers count milliseconds; a deferred message may arrive this much before its time.
const EARLY: Duration = Duration::from_millis(2);

/// The promise of a target for what it acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// It survives the power cut.
    Always,
    /// It survives the end of the process, and a power cut that comes later than this.
    Within(Duration),
    /// It survives the end of the process.
    Process,
    /// It may be gone when the process ends.
    Nothing,
}

/// A broken promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ViolationKind {
    /// Acknowledged, never finished, and not there.
    Lost,
    /// Never published.
    Invented,
    /// Finished, confirmed, and delivered again.
    Back,
    /// A publisher's messages, published one after the other, are delivered in another order.
    Order,
    /// Requeued, and its attempts were forgotten.
    Attempts,
    /// Deferred, and delivered before its time.
    Early,
    /// Damage of a file, which the target did not name.
    Unnamed,
    /// The program did not start, or ended by itself.
    Failed,
}

/// A broken promise, described.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Violation {
    pub(super) kind: ViolationKind,
    pub(super) text: String,
    /// The fault after which it was seen.
    pub(super) after: Option<FaultKind>,
}

/// The judgement of a case.
#[derive(Debug, Default)]
pub(super) struct Judgement {
    pub(super) violations: Vec<Violation>,
    /// Messages lost as far as the promise allows it, by the fault.
    pub(super) allowed: Vec<FaultKind>,
    /// The longest time between the acknowledgement of a lost message and the power cut.
    pub(super) oldest_lost: Option<Duration>,
    /// Deliveries out of order, for a target that promises none.
    pub(super) disordered: u64,
}

/// Judges a case.
pub(super) fn judge(history: &CaseHistory, durability: Durability, is_ordered: bool) -> Judgement {
    let judge = Judge { history, durability };
    let mut judgement = Judgement::default();
    for text in &history.invented {
        judgement.add(ViolationKind::Invented, None, text.clone());
    }
    for text in &history.unnamed {
        let fault = history.faults.iter().find(|fault| matches!(fault.kind, FaultKind::Damage(_)));
        judgement.add(ViolationKind::Unnamed, fault.map(|fault| fault.kind), text.clone());
    }
    for (number, message) in history.messages.iter().enumerate() {
        judge.lost(number, message, &mut judgement);
        judge.deliveries(number, message, &mut judgement);
    }
    let disorder = disorder(history);
    match is_ordered {
        true => disorder.into_iter().for_each(|text| judgement.add(ViolationKind::Order, None, text)),
        false => judgement.disordered = disorder.len() as u64,
    }
    judgement
}

impl Judgement {
    fn add(&mut self, kind: ViolationKind, after: Option<FaultKind>, text: String) {
        self.violations.push(Violation { kind, text, after });
    }
}

struct Judge<'a> {
    history: &'a CaseHistory,
    durability: Durability,
}

impl Judge<'_> {
    /// The fault that may have destroyed what was acknowledged at this moment, and the time between
    /// the two, if the promise allows it.
    fn excuse(&self, acknowledged: Instant) -> Option<(FaultKind, Duration)> {
        let is_excuse = |kind: FaultKind| match self.durability {
            Durability::Nothing => kind.ends_process(),
            Durability::Always | Durability::Within(_) | Durability::Process => matches!(kind, FaultKind::Power(_)),
        };
        let next = self.history.faults.iter().find(|fault| fault.at >= acknowledged && is_excuse(fault.kind))?;
        let after = next.at - acknowledged;
        let is_excused = match self.durability {
            Durability::Always => false,
            Durability::Within(time) => after <= time || self.was_sync_failing(acknowledged, time, next.at),
            Durability::Process | Durability::Nothing => true,
        };
        is_excused.then_some((next.kind, after))
    }

    /// Returns true if the sync that was due within `time` came while syncs failed, and nothing was
    /// acknowledged later than `time` after that: what it should have covered is not on the disk.
    fn was_sync_failing(&self, acknowledged: Instant, time: Duration, cut: Instant) -> bool {
        let failing = self.history.faults.iter().filter(|fault| fault.kind == FaultKind::Disk(DiskFault::SyncError));
        let is_over = |fault: &FaultRecord| {
            let mut others = self.history.messages.iter().filter_map(|message| message.acknowledged);
            others.any(|other| fault.until + time < other && other < cut)
        };
        failing.into_iter().any(|fault| {
            fault.at <= cut && acknowledged + time >= fault.at && acknowledged <= fault.until && !is_over(fault)
        })
    }

    /// The damage, since this moment, of the file's unit that has the message.
    fn damage(&self, number: usize, since: Instant) -> Option<FaultKind> {
        let mut damages = self.history.damages.iter().filter(|(at, _)| *at >= since);
        let (at, _) = damages.find(|(_, damage)| damage.messages.contains(&number))?;
        self.history
            .faults
            .iter()
            .rev()
            .find(|fault| fault.kind.ends_process() && fault.at <= *at)
            .map(|fault| fault.kind)
    }

    /// Returns true if a reply that was confirmed at this moment is binding.
    fn is_binding(&self, number: usize, confirmed: Instant) -> bool {
        let is_forgotten = self.history.damages.iter().any(|(at, damage)| damage.forgets && *at >= confirmed);
        !is_forgotten && self.damage(number, confirmed).is_none() && self.excuse(confirmed).is_none()
    }

    /// The first fault after this moment that ends the process.
    fn next_fault(&self, at: Instant) -> Option<FaultKind> {
        self.history.faults.iter().find(|fault| fault.at >= at && fault.kind.ends_process()).map(|fault| fault.kind)
    }

    fn lost(&self, number: usize, message: &MessageRecord, judgement: &mut Judgement) {
        let (true, Some(acknowledged)) = (message.is_expected(), message.acknowledged) else { return };
        if let Some((fault, after)) = self.excuse(acknowledged) {
            judgement.allowed.push(fault);
            judgement.oldest_lost = judgement.oldest_lost.max(Some(after));
            return;
        }
        if let Some(fault) = self.damage(number, acknowledged) {
            judgement.allowed.push(fault);
            return;
        }
        // it was there when it was last delivered
        let seen = message.deliveries.last().map_or(acknowledged, |delivery| delivery.at);
        let fault = self.next_fault(seen);
        let cut = self.history.faults.iter().find(|fault| fault.at >= seen && fault.kind.ends_process());
        let before = cut.map_or_else(String::new, |cut| {
            format!(", {:.1} ms before: {}", (cut.at - seen).as_secs_f64() * 1e3, cut.kind.describe())
        });
        let event = if message.deliveries.is_empty() { "acknowledged" } else { "delivered, not finished" };
        judgement.add(ViolationKind::Lost, fault, format!("message {number} is lost: {event}{before}"));
    }

    fn deliveries(&self, number: usize, message: &MessageRecord, judgement: &mut Judgement) {
        if let (Some(due), Some(first)) = (message.due, message.deliveries.first())
            && message.acknowledged.is_none_or(|acknowledged| self.excuse(acknowledged).is_none())
            && (message.acknowledged.is_some() || self.durability != Durability::Nothing)
        {
            self.early(number, due, first, judgement);
        }
        for pair in message.deliveries.windows(2) {
            let [before, now] = pair else { continue };
            match before.reply {
                ConsumerReply::Finish { confirmed: Some(confirmed) } if self.is_binding(number, confirmed) => {
                    let text = format!(
                        "message {number} is back: finished, confirmed, and delivered again {:.1} ms later",
                        (now.at.saturating_duration_since(confirmed)).as_secs_f64() * 1e3
                    );
                    judgement.add(ViolationKind::Back, self.next_fault(confirmed), text);
                }
                ConsumerReply::Requeue { due, confirmed: Some(confirmed) } if self.is_binding(number, confirmed) => {
                    self.early(number, due, now, judgement);
                    self.attempts(number, confirmed, before, now, judgement);
                }
                ConsumerReply::Finish { .. } | ConsumerReply::Requeue { .. } | ConsumerReply::None => {}
            }
        }
    }

    fn early(&self, number: usize, due: Instant, delivery: &DeliveryRecord, judgement: &mut Judgement) {
        let early = due.saturating_duration_since(delivery.at);
        if early > EARLY && !self.has_stepped_clock(delivery.at) {
            let text = format!("message {number} is early by {:.1} ms", early.as_secs_f64() * 1e3);
            judgement.add(ViolationKind::Early, None, text);
        }
    }

    /// Returns true if the clock was stepped before this moment, and the program started after that:
    /// from then on, deferred messages follow the wall clock.
    fn has_stepped_clock(&self, at: Instant) -> bool {
        let faults = &self.history.faults;
        let mut steps = faults.iter().filter(|fault| fault.kind == FaultKind::Clock);
        let first = steps.next().map(|step| step.at);
        first.is_some_and(|step| faults.iter().any(|end| end.kind.ends_process() && (step..=at).contains(&end.at)))
    }

    fn attempts(
        &self,
        number: usize,
        confirmed: Instant,
        before: &DeliveryRecord,
        now: &DeliveryRecord,
        judgement: &mut Judgement,
    ) {
        if let (Some(had), Some(has)) = (before.attempts, now.attempts)
            && has <= had
        {
            let text = format!("message {number} has {has} attempts: it was requeued with {had}");
            judgement.add(ViolationKind::Attempts, self.next_fault(confirmed), text);
        }
    }
}

/// Finds first deliveries, of messages that were not deferred, in another order than published.
/// Messages that were in flight when the program ended come again in any order.
fn disorder(history: &CaseHistory) -> Vec<String> {
    let mut last: std::collections::HashMap<(usize, usize), (Instant, usize)> = std::collections::HashMap::new();
    let mut found = Vec::new();
    for (number, message) in history.messages.iter().enumerate() {
        let (None, [first, ..], Some(_)) = (message.due, &message.deliveries[..], message.acknowledged) else {
            continue;
        };
        if first.attempts.is_some_and(|attempts| attempts > 1) {
            continue;
        }
        let key = (message.publisher, first.start);
        if let Some((at, other)) = last.get(&key)
            && *at > first.at
        {
            found.push(format!("message {number} came before message {other}, which its publisher sent earlier"));
            continue;
        }
        last.insert(key, (first.at, number));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::faults::FileDamage;
    use super::super::history::DamageRecord;
    use super::super::layer::PowerCut;
    use super::*;

    const CUT: FaultKind = FaultKind::Power(PowerCut::Unsynced);

    struct World {
        start: Instant,
        history: CaseHistory,
    }

    impl World {
        fn new() -> Self {
            Self { start: Instant::now(), history: CaseHistory::default() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        /// Adds a message that was acknowledged at this time.
        fn message(&mut self, ms: u64) -> usize {
            let acknowledged = Some(self.at(ms));
            self.history.messages.push(MessageRecord { publisher: 0, due: None, acknowledged, deliveries: Vec::new() });
            self.history.messages.len() - 1
        }

        fn delivered(&mut self, number: usize, ms: u64, attempts: u32, reply: ConsumerReply) {
            let at = self.at(ms);
            let delivery = DeliveryRecord { at, start: 0, attempts: Some(attempts), reply };
            self.history.messages[number].deliveries.push(delivery);
        }

        fn fault(&mut self, kind: FaultKind, ms: u64) {
            let at = self.at(ms);
            self.history.faults.push(FaultRecord { kind, at, until: at });
        }

        fn kinds(&self, durability: Durability) -> Vec<ViolationKind> {
            judge(&self.history, durability, true).violations.iter().map(|violation| violation.kind).collect()
        }
    }

    #[test]
    fn a_lost_message_is_excused_by_a_power_cut_within_the_promised_time_only() {
        let mut world = World::new();
        world.message(10);
        world.fault(CUT, 100);
        assert_eq!(world.kinds(Durability::Always), [ViolationKind::Lost]);
        assert_eq!(world.kinds(Durability::Within(Duration::from_millis(50))), [ViolationKind::Lost]);
        assert_eq!(world.kinds(Durability::Within(Duration::from_millis(90))), []);
        assert_eq!(world.kinds(Durability::Process), []);
        let allowed = judge(&world.history, Durability::Process, true);
        assert_eq!((allowed.allowed, allowed.oldest_lost), (vec![CUT], Some(Duration::from_millis(90))));
    }

    #[test]
    fn damage_may_cost_the_messages_of_its_unit_and_must_be_named() {
        let mut world = World::new();
        let [damaged, other] = [world.message(10), world.message(10)];
        let kind = FaultKind::Damage(FileDamage::BitFlip);
        world.fault(kind, 100);
        let damage = DamageRecord {
            text: String::new(),
            file: String::new(),
            range: 0..1,
            messages: [damaged].into(),
            forgets: false,
        };
        world.history.damages.push((world.at(101), damage));
        let judgement = judge(&world.history, Durability::Always, true);
        assert_eq!(judgement.allowed, [kind]);
        assert!(judgement.violations[0].text.contains(&format!("message {other} is lost")), "{judgement:?}");
        world.history.unnamed.push("byte 7".to_owned());
        assert_eq!(world.kinds(Durability::Always), [ViolationKind::Unnamed, ViolationKind::Lost]);
    }

    #[test]
    fn a_failing_sync_excuses_what_it_should_have_covered() {
        let mut world = World::new();
        world.message(10);
        world.fault(FaultKind::Disk(DiskFault::SyncError), 60);
        world.history.faults[0].until = world.at(100);
        world.fault(CUT, 900);
        let within = |ms| Durability::Within(Duration::from_millis(ms));
        assert_eq!(world.kinds(within(50)), []);
        assert_eq!(world.kinds(within(40)), [ViolationKind::Lost], "it should have been synced before");
        assert_eq!(world.kinds(Durability::Always), [ViolationKind::Lost]);
        let later = world.message(880);
        assert_eq!(world.kinds(within(50)), [ViolationKind::Lost], "syncs worked again, as the later one shows");
        world.history.messages[later].acknowledged = None;
        world.history.messages[0].acknowledged = Some(world.at(101));
        assert_eq!(world.kinds(within(50)), [ViolationKind::Lost], "syncs worked again");
    }

    #[test]
    fn a_kill_is_no_excuse() {
        let mut world = World::new();
        world.message(10);
        world.fault(FaultKind::Kill, 11);
        assert_eq!(world.kinds(Durability::Process), [ViolationKind::Lost]);
        assert_eq!(world.kinds(Durability::Nothing), []);
    }

    #[test]
    fn unacknowledged_and_finished_messages_may_be_gone() {
        let mut world = World::new();
        let refused = world.message(10);
        world.history.messages[refused].acknowledged = None;
        let finished = world.message(10);
        world.delivered(finished, 20, 1, ConsumerReply::Finish { confirmed: None });
        world.fault(CUT, 30);
        assert_eq!(world.kinds(Durability::Always), []);
    }

    #[test]
    fn a_confirmed_finish_is_final_and_an_unconfirmed_one_is_not() {
        for (confirmed, found) in [(None, vec![]), (Some(25), vec![ViolationKind::Back])] {
            let mut world = World::new();
            let number = world.message(10);
            let confirmed = confirmed.map(|ms| world.at(ms));
            world.delivered(number, 20, 1, ConsumerReply::Finish { confirmed });
            world.fault(FaultKind::Kill, 30);
            world.delivered(number, 40, 2, ConsumerReply::Finish { confirmed: None });
            assert_eq!(world.kinds(Durability::Always), found);
        }
    }

    #[test]
    fn a_requeued_message_keeps_its_time_and_attempts() {
        let mut world = World::new();
        let number = world.message(10);
        let (due, confirmed) = (world.at(100), Some(world.at(25)));
        world.delivered(number, 20, 3, ConsumerReply::Requeue { due, confirmed });
        world.fault(FaultKind::Kill, 30);
        world.delivered(number, 40, 3, ConsumerReply::Finish { confirmed: None });
        assert_eq!(world.kinds(Durability::Always), [ViolationKind::Early, ViolationKind::Attempts]);
    }

    #[test]
    fn a_deferred_message_is_not_early() {
        let mut world = World::new();
        let number = world.message(10);
        world.history.messages[number].due = Some(world.at(50));
        world.delivered(number, 47, 1, ConsumerReply::Finish { confirmed: None });
        assert_eq!(world.kinds(Durability::Always), [ViolationKind::Early]);
    }

    #[test]
    fn a_publishers_messages_come_in_their_order() {
        let mut world = World::new();
        let [first, second] = [world.message(10), world.message(11)];
        world.delivered(second, 20, 1, ConsumerReply::Finish { confirmed: None });
        world.delivered(first, 30, 1, ConsumerReply::Finish { confirmed: None });
        assert_eq!(world.kinds(Durability::Always), [ViolationKind::Order]);
        assert_eq!(judge(&world.history, Durability::Always, false).disordered, 1);
    }
}
