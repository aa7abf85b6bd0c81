// Versions of a track: the button of another one goes on from the same position, and that of the one that plays pauses it
const audios = () => [...element.querySelectorAll('audio')], buttons = () => [...element.querySelectorAll('button')];
let last = 0; // the version that was played last
const move = seconds => audios().forEach(each => { each.currentTime = Math.min(seconds, each.duration || seconds); });
const show = () => {
  const audio = audios()[last], slider = element.querySelector('input');
  if (!audio) return;
  buttons().forEach((button, i) => button.setAttribute('aria-pressed', String(!audios()[i].paused)));
  slider.value = audio.currentTime;
  element.querySelector('output').textContent = `${audio.currentTime.toFixed(1)} s`;
  const playhead = document.querySelector('#codes .playhead');
  if (!playhead) return;
  const place = audio.currentTime / playhead.parentElement.dataset.seconds;
  playhead.style.left = `${100 * place}%`;
  playhead.style.display = audio.currentTime > 0 && place <= 1 ? 'block' : 'none';
  if (!audio.paused) requestAnimationFrame(show);
};
element.addEventListener('click', event => {
  const index = buttons().indexOf(event.target.closest('button'));
  if (index < 0) return;
  const from = audios()[last] ?? audios()[index], audio = audios()[index], plays = !audio.paused;
  const seconds = from.ended ? 0 : from.currentTime;
  audios().forEach(each => each.pause());
  last = index;
  if (!plays) { move(seconds); audio.play(); }
  show();
});
element.addEventListener('input', event => {
  if (event.target.type === 'range') { move(Number(event.target.value)); show(); }
});
for (const name of ['play', 'pause', 'ended', 'seeked']) element.addEventListener(name, show, true);
watch('value', () => { last = 0; });
