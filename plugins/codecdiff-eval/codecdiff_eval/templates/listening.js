const data = JSON.parse(document.getElementById('data').textContent);
const at = id => document.getElementById(id);
const isPairs = data.mode === 'ab';
const place = `codecdiff-listening-${data.test}`;
const make = (name, fields = {}, ...children) => {
  const element = Object.assign(document.createElement(name), fields);
  element.append(...children);
  return element;
};

// Votes are kept in the browser by rater, where it lets a page of the disk do so
const stored = () => { try { return JSON.parse(localStorage.getItem(place)) ?? {}; } catch { return {}; } };
const store = () => {
  try { localStorage.setItem(place, JSON.stringify({ ...stored(), [state.rater]: state })); } catch { /* the export remains */ }
};
let state = null;

// A round is a pair of systems of one item, or one item; all orders follow from the seed that was drawn for the rater
function mulberry(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
function shuffled(list, random) {
  const result = [...list];
  for (let i = result.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [result[i], result[j]] = [result[j], result[i]];
  }
  return result;
}
function roundsOf(seed) {
  const random = mulberry(seed), pairs = [];
  data.systems.forEach((a, i) => data.systems.slice(i + 1).forEach(b => pairs.push([a, b])));
  const all = data.items.flatMap((item, i) => (isPairs ? pairs : [data.systems]).map(systems => ({ i, systems })));
  return shuffled(all, random).map(({ i, systems }) => ({ item: data.items[i], systems: shuffled(systems, random) }));
}

// All clips of a round play at one position; one of them at a time sounds
let rounds = [], players = [], current = null, began = 0;
const start = audio => audio.play().catch(() => {}); // a pause that follows at once is not an error
function play(name) {
  const next = players.find(each => each.name === name);
  if (!next) return;
  const position = current ? current.audio.currentTime % (current.audio.duration || 1) : 0;
  players.forEach(each => each !== next && each.audio.pause());
  if (current !== next) next.audio.currentTime = position;
  current = next;
  next.plays += 1;
  at('missing').textContent = '';
  start(next.audio);
  players.forEach(each => each.button.setAttribute('aria-pressed', each === next));
}
function pause() {
  if (!current) return;
  current.audio.paused ? start(current.audio) : current.audio.pause();
}
function stop() {
  players.forEach(each => { each.audio.pause(); each.audio.removeAttribute('src'); URL.revokeObjectURL(each.url); });
  players = []; current = null;
}
function addPlayer(name, title, uri) {
  const bytes = Uint8Array.from(atob(uri.split(',')[1]), letter => letter.charCodeAt(0));
  const url = URL.createObjectURL(new Blob([bytes], { type: 'audio/wav' }));
  const audio = make('audio', { src: url, loop: true, preload: 'auto' });
  const button = make('button', { type: 'button', onclick: () => play(name) }, title);
  button.setAttribute('aria-pressed', 'false');
  players.push({ name, audio, url, button, plays: 0 });
  return make('div', { className: 'clip' }, button, audio);
}

function show() {
  stop();
  const isDone = state.position >= rounds.length;
  at('start').hidden = true; at('export').hidden = false;
  at('round').hidden = isDone; at('end').hidden = !isDone;
  if (isDone) return at('thanks').focus();
  const round = rounds[state.position], vote = state.votes[state.position];
  at('progress').textContent = `${state.position + 1} of ${rounds.length}`;
  at('request').textContent = round.item.prompt ? `“${round.item.prompt}”` : `Round ${state.position + 1}`;
  at('missing').textContent = '';
  at('back').disabled = state.position === 0;
  at('clips').replaceChildren(make('progress', { id: 'position', max: 1, value: 0, ariaLabel: 'Position in the clip' }));
  at('vote').replaceChildren();
  isPairs ? showPair(round, vote) : showScores(round, vote);
  began = Date.now();
  at('request').focus();
}
function showPair({ item, systems }, vote) {
  at('clips').append(...systems.map((system, i) => addPlayer('AB'[i], `Play ${'AB'[i]}`, item.clips[system])));
  const choice = (value, label) => {
    const input = make('input', { type: 'radio', name: 'preferred', value });
    input.checked = !!vote && ((vote.preferred && 'AB'[systems.indexOf(vote.preferred)]) || 'none') === value;
    return make('label', {}, input, label);
  };
  const choices = [choice('A', 'A'), choice('none', 'No preference'), choice('B', 'B')];
  at('vote').append(make('fieldset', {}, make('legend', {}, 'Which do you prefer?'), ...choices));
}
function showScores({ item, systems }, vote) {
  at('clips').append(addPlayer('R', 'Play reference', item.clips.reference));
  systems.forEach((system, i) => {
    const row = addPlayer(String(i + 1), `Play ${i + 1}`, item.clips[system]);
    const score = vote ? vote.scores[system] : 50, output = make('output', {}, String(score));
    const slider = make('input', { type: 'range', min: 0, max: 100, step: 1, value: score, ariaLabel: `Score of ${i + 1}, 0 to 100` });
    slider.addEventListener('input', () => { output.textContent = slider.value; });
    row.append(slider, output);
    at('clips').append(row);
  });
}
function voteOf({ item, systems }) {
  const plays = players.map(each => each.plays), seconds = (Date.now() - began) / 1000;
  if (isPairs) {
    const checked = document.querySelector('input[name=preferred]:checked');
    if (!checked) return null;
    const preferred = checked.value === 'none' ? null : systems['AB'.indexOf(checked.value)];
    return { item: item.name, systems, preferred, plays, seconds };
  }
  const sliders = [...document.querySelectorAll('#clips input[type=range]')];
  const scores = Object.fromEntries(systems.map((system, i) => [system, Number(sliders[i].value)]));
  return { item: item.name, scores, plays, seconds };
}
function next() {
  const before = state.votes[state.position], unplayed = players.filter(each => !each.plays && !before);
  const vote = voteOf(rounds[state.position]);
  if (unplayed.length || !vote) {
    const names = unplayed.map(each => (each.name === 'R' ? 'the reference' : each.name)).join(', ');
    at('missing').textContent = unplayed.length ? `Play ${names} first.` : 'Select which you prefer, or that you have no preference.';
    return;
  }
  state.votes[state.position] = vote;
  state.position += 1;
  store();
  show();
}

at('begin').addEventListener('submit', event => {
  event.preventDefault();
  const rater = at('rater').value.trim();
  if (!rater) return;
  state = stored()[rater] ?? { rater, seed: crypto.getRandomValues(new Uint32Array(1))[0], position: 0, votes: [] };
  rounds = roundsOf(state.seed);
  store();
  show();
});
at('next').addEventListener('click', next);
at('vote').addEventListener('change', () => { at('missing').textContent = ''; });
at('back').addEventListener('click', () => { state.position -= 1; show(); });
at('save').addEventListener('click', () => {
  const { rater, seed, votes } = state, { test, title, mode, systems } = data;
  const text = JSON.stringify({ format: 1, test, title, mode, systems, rater, seed, votes: votes.filter(Boolean) }, null, 1);
  const name = `votes-${rater.replace(/[^\p{L}\p{N}]+/gu, '-')}.json`;
  const link = make('a', { href: URL.createObjectURL(new Blob([text], { type: 'application/json' })), download: name });
  link.click();
  at('saved').textContent = `${votes.filter(Boolean).length} of ${rounds.length} votes are in ${name}.`;
});
at('clear').addEventListener('click', () => {
  if (!confirm('Delete these votes?')) return;
  const { [state.rater]: deleted, ...others } = stored();
  try { localStorage.setItem(place, JSON.stringify(others)); } catch { /* nothing was stored */ }
  stop(); state = null;
  at('start').hidden = false; at('round').hidden = at('end').hidden = at('export').hidden = true;
  at('rater').focus();
});
document.addEventListener('keydown', event => {
  if (at('round').hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toUpperCase() : event.key, on = document.activeElement;
  const choice = isPairs && on.type !== 'radio' && { ArrowLeft: 0, ArrowDown: 1, ArrowRight: 2 }[key];
  if (players.some(each => each.name === key)) play(key);
  else if (key === ' ' && on.type !== 'radio' && (on.tagName !== 'BUTTON' || on === current?.button)) pause();
  else if (key === 'Home' && on.type !== 'range') players.forEach(each => { each.audio.currentTime = 0; });
  else if (key === 'Enter' && on.tagName !== 'BUTTON') next();
  else if (typeof choice === 'number') document.querySelectorAll('input[name=preferred]')[choice].click();
  else return;
  event.preventDefault();
});
setInterval(() => {
  if (current && at('position')) at('position').value = current.audio.currentTime / (current.audio.duration || 1);
}, 100);
at('rater').value = Object.keys(stored()).at(-1) ?? '';
