//! Little English stories by the megabyte: a data set for demonstrations, in nobody's copyright.
//!
//! A seed always gives the same text. Each story has a beginning, a problem, a turn and an end, and what
//! it mentions stays consistent, so that a model has something to learn at every length.

use core::fmt::Write;

mod words;

use words::{CHILDREN, COMPANIONS, FOODS, MORALS, PLACES, THINGS, WEATHERS};

/// About `bytes` bytes of stories, ending with a whole story; each ends in an empty line.
pub fn stories(seed: u64, bytes: usize) -> String {
    let mut random = Random(seed);
    let mut text = String::with_capacity(bytes.min(1 << 28).saturating_add(2048));
    while text.len() < bytes {
        let story = story(&mut random);
        // The last story stays only if that brings the size nearer to what was asked.
        if !text.is_empty() && text.len() + story.len() / 2 > bytes {
            break;
        }
        text += &story;
    }
    text
}

/// Who and what a story is about.
struct Cast {
    name: &'static str,
    they: &'static str,
    them: &'static str,
    their: &'static str,
    friend: &'static str,
    animal: &'static str,
    pet: &'static str,
    place: &'static str,
    thing: &'static str,
    food: &'static str,
}

impl Cast {
    fn draw(random: &mut Random) -> Self {
        let (name, girl) = *random.pick(CHILDREN);
        let mut friend = random.pick(CHILDREN).0;
        while friend == name {
            friend = random.pick(CHILDREN).0;
        }
        let (animal, pet) = *random.pick(COMPANIONS);
        let [they, them, their] = if girl { ["she", "her", "her"] } else { ["he", "him", "his"] };
        let (place, thing, food) = (*random.pick(PLACES), *random.pick(THINGS), *random.pick(FOODS));
        Self { name, they, them, their, friend, animal, pet, place, thing, food }
    }
}

fn story(random: &mut Random) -> String {
    let cast = Cast::draw(random);
    let mut text = String::with_capacity(1024);
    beginning(&mut text, random, &cast);
    let plot = random.below(PLOTS.len());
    PLOTS[plot](&mut text, random, &cast);
    end(&mut text, random, &cast);
    text += "\n\n";
    text
}

/// Appends a sentence. Writing to a string cannot fail.
macro_rules! say {
    ($text:expr, $($part:tt)*) => {{
        if !$text.is_empty() && !$text.ends_with('\n') {
            $text.push(' ');
        }
        let written = write!($text, $($part)*);
        debug_assert!(written.is_ok());
    }};
}

fn beginning(text: &mut String, random: &mut Random, cast: &Cast) {
    let Cast { name, they, their, animal, pet, place, food, .. } = cast;
    match random.below(4) {
        0 => say!(text, "Once there was a child named {name}. {} lived near {place}.", capital(they)),
        1 => say!(text, "{name} lived in a small house near {place}."),
        2 => say!(text, "Long ago, in a village by {place}, there lived a child called {name}."),
        _ => say!(text, "This is a story about {name} and a {animal} named {pet}."),
    }
    let (sky, feeling) = *random.pick(WEATHERS);
    match random.below(3) {
        0 => say!(text, "One morning {sky}, and {name} felt {feeling}."),
        1 => say!(text, "That day {sky}. {name} was {feeling}."),
        _ => say!(text, "\"What a day!\" said {name}, for {sky}."),
    }
    match random.below(3) {
        0 => say!(text, "{} put some {food} in {their} bag and went out with {pet} the {animal}.", capital(they)),
        1 => say!(text, "After a breakfast of {food}, {they} walked to {place} with {pet} the {animal}."),
        _ => say!(text, "{} called {their} {animal}, {pet}, and they set off together.", capital(they)),
    }
    text.push('\n');
}

type Plot = fn(&mut String, &mut Random, &Cast);
const PLOTS: [Plot; 6] = [lost, found, stuck, storm, quarrel, hungry];

fn lost(text: &mut String, random: &mut Random, cast: &Cast) {
    let Cast { name, they, their, friend, animal, pet, place, thing, .. } = cast;
    say!(text, "At {place}, {name} reached for {their} {thing}. It was gone!");
    say!(text, "\"Oh no,\" said {name}. \"Where is my {thing}?\"");
    let tries = 2 + random.below(2);
    for spot in random.some(&["under a bench", "behind a tree", "in the long grass", "beside the path"], tries) {
        say!(text, "{} looked {spot}, but it was not there.", capital(they));
    }
    if random.below(2) == 0 {
        say!(text, "Then {pet} began to dig. The {animal} had found the {thing} in a hole!");
    } else {
        say!(text, "Then {friend} came along the road. \"Is this {thing} yours?\" asked {friend}.");
    }
    say!(text, "\"Thank you!\" said {name}, and held the {thing} tight.");
}

fn found(text: &mut String, random: &mut Random, cast: &Cast) {
    let Cast { name, they, them, friend, animal, pet, place, thing, .. } = cast;
    say!(text, "On the way to {place}, {pet} stopped. There on the ground lay a {thing}.");
    say!(text, "\"Somebody must miss it,\" said {name}. \"We will find out who.\"");
    let asked = random.some(&["the baker", "the teacher", "an old farmer", "the woman at the shop"], 2);
    for person in asked {
        say!(text, "{} asked {person}. \"No, it is not mine,\" was the answer.", capital(they));
    }
    say!(text, "At last they met {friend}, who was sitting on a step and crying.");
    say!(text, "\"I have lost my {thing},\" said {friend}. {name} gave it back.");
    if random.below(2) == 0 {
        say!(text, "{friend} laughed and hugged {them}, and then hugged the {animal} too.");
    } else {
        say!(text, "\"You are kind,\" said {friend}. \"Come and play with me.\"");
    }
}

fn stuck(text: &mut String, random: &mut Random, cast: &Cast) {
    let Cast { name, their, friend, animal, pet, place, .. } = cast;
    let (other, sound) =
        *random.pick(&[("kitten", "a thin cry"), ("duckling", "a small peep"), ("lamb", "a sad call")]);
    let trap = *random.pick(&["in a deep ditch", "between two stones", "in a thorn bush", "behind a broken fence"]);
    say!(text, "Near {place} they heard {sound}. A {other} was stuck {trap}.");
    say!(text, "\"Do not be afraid,\" said {name}. \"We will help you.\"");
    say!(text, "{name} pulled, but it was too hard. {pet} the {animal} pulled too, but it was still too hard.");
    if random.below(2) == 0 {
        say!(text, "So {name} ran to fetch {friend}. Together they pulled once, twice, and the {other} was free!");
    } else {
        say!(text, "So {name} thought for a while. With a long stick and {their} scarf, the {other} came free!");
    }
    say!(text, "The {other} looked at them, shook itself, and ran home to its mother.");
}

fn storm(text: &mut String, random: &mut Random, cast: &Cast) {
    let Cast { name, they, their, friend, animal, pet, place, food, .. } = cast;
    say!(text, "They had just come to {place} when the sky turned dark.");
    let sign =
        *random.pick(&["The wind began to howl.", "Thunder rolled over the hills.", "Heavy rain began to fall."]);
    say!(text, "{sign} {pet} the {animal} hid behind {name}.");
    say!(text, "\"We must find a roof,\" said {name}. {} took {pet} and ran.", capital(they));
    let roof = *random.pick(&["an old barn", "a little cave", "the mill", "an empty boat house"]);
    say!(text, "Soon they saw {roof}. Inside sat {friend}, wet and cold.");
    say!(text, "{name} shared {their} {food}, and they told each other jokes until the storm was over.");
    say!(text, "When they came out, a rainbow stood over {place}.");
}

fn quarrel(text: &mut String, random: &mut Random, cast: &Cast) {
    let Cast { name, they, friend, animal, pet, place, thing, .. } = cast;
    say!(text, "At {place} {they} met {friend}, and both wanted to play with the same {thing}.");
    say!(text, "\"It is mine!\" said {name}. \"No, I had it first!\" said {friend}.");
    if random.below(2) == 0 {
        say!(text, "They pulled and pulled, until the {thing} fell into the mud.");
    } else {
        say!(text, "They did not speak to each other for a long time.");
    }
    say!(text, "{pet} the {animal} sat down between them and looked very sad.");
    say!(text, "{name} felt bad. \"I am sorry,\" {they} said. \"You can have the first turn.\"");
    say!(text, "\"I am sorry too,\" said {friend}. \"Let us play together.\"");
}

fn hungry(text: &mut String, random: &mut Random, cast: &Cast) {
    let Cast { name, they, them, their, friend, animal, pet, place, food, .. } = cast;
    let count = *random.pick(&["two", "three", "four", "five"]);
    let guest = *random.pick(&["an old man", "a tired traveller", "a girl with no shoes", "a lost sailor"]);
    say!(text, "{name} had {count} bags of {food} to bring to {friend}, who was ill.");
    say!(text, "By {place} sat {guest}. \"I have not eaten today,\" came a quiet voice.");
    say!(text, "{name} looked at the {food}, and then at {pet}. The {animal} gave a nod.");
    say!(text, "\"Please take one,\" said {name}.");
    say!(text, "The stranger smiled and showed {them} a short way through the woods.");
    say!(text, "So {they} came to {friend} early, and {their} {food} was still warm.");
    say!(text, "{friend} ate everything and felt much better.");
}

fn end(text: &mut String, random: &mut Random, cast: &Cast) {
    let Cast { name, they, their, friend, pet, animal, food, .. } = cast;
    text.push('\n');
    match random.below(4) {
        0 => say!(text, "In the evening {name} told {their} mother everything."),
        1 => say!(text, "When the sun went down, {name} and {pet} walked home."),
        2 => {
            say!(
                text,
                "That night {friend} came for supper, and there was {food} for everyone, even for the {animal}."
            );
        }
        _ => say!(text, "At home {they} fell asleep with {pet} the {animal} at {their} feet."),
    }
    if random.below(3) > 0 {
        let moral = *random.pick(MORALS);
        say!(text, "{name} had learned that {moral}.");
    }
    say!(text, "The end.");
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Steele, Lea and Flood 2014 (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// `count` different ones, in their order.
    fn some<T: Copy>(&mut self, from: &[T], count: usize) -> Vec<T> {
        let mut left = from.to_vec();
        while left.len() > count {
            left.remove(self.below(left.len()));
        }
        left
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_text() {
        assert_eq!(stories(1, 20_000), stories(1, 20_000));
        assert_ne!(stories(1, 20_000), stories(2, 20_000));
    }

    #[test]
    fn the_text_is_about_as_long_as_asked_and_ends_with_a_story() {
        for bytes in [5_000, 100_000] {
            let text = stories(3, bytes);
            assert!(text.len().abs_diff(bytes) < 1_000, "{}", text.len());
            assert!(text.ends_with("The end.\n\n"));
        }
        assert!(stories(3, 1).ends_with("The end.\n\n"));
        assert_eq!(stories(3, 0), "");
    }

    #[test]
    fn stories_are_plain_and_rarely_the_same() {
        let text = stories(4, 200_000);
        assert!(text.bytes().all(|byte| byte == b'\n' || (b' '..0x7f).contains(&byte)));
        assert!(!text.contains("  ") && !text.contains(" \n") && !text.contains('{'));
        for wrong in [" a a", " a e", " a i", " a o", " an b", "..", " a u"] {
            assert!(!text.contains(wrong), "{wrong:?}");
        }
        let all: Vec<&str> = text.split_terminator("\n\n").collect();
        let different: std::collections::BTreeSet<&str> = all.iter().copied().collect();
        assert_eq!(all.len(), different.len());
    }
}
