// A region of the figure is selected by dragging; its edges go to the fields beside it, which the keyboard reaches
let from = null;
const clamp = value => Math.min(1, Math.max(0, value));
const position = event => {
  const box = element.querySelector('.codes').getBoundingClientRect();
  return [clamp((event.clientX - box.left) / box.width), clamp((box.bottom - event.clientY) / box.height)];
};
const region = event => {
  const [x, y] = position(event), { count, seconds } = element.querySelector('.codes').dataset;
  const [left, right] = [Math.min(x, from[0]), Math.max(x, from[0])], [low, high] = [Math.min(y, from[1]), Math.max(y, from[1])];
  const row = value => Math.min(count - 1, Math.floor(value * count));
  return { start: left * seconds, stop: right * seconds, low: row(low), high: row(high), count: Number(count), seconds: Number(seconds) };
};
const draw = ({ start, stop, low, high, count, seconds }) => {
  const style = element.querySelector('.codes i').style;
  style.left = `${100 * start / seconds}%`; style.width = `${100 * (stop - start) / seconds}%`;
  style.bottom = `${100 * low / count}%`; style.height = `${100 * (high + 1 - low) / count}%`;
};
element.addEventListener('pointerdown', event => {
  if (!event.target.closest('.codes')) return;
  from = position(event);
  element.setPointerCapture(event.pointerId);
  event.preventDefault();
});
element.addEventListener('pointermove', event => { if (from) draw(region(event)); });
element.addEventListener('pointerup', event => {
  if (!from) return;
  const { start, stop, low, high } = region(event);
  from = null;
  if (stop > start) trigger('select', { start, stop, low, high });
});
element.addEventListener('pointercancel', () => { from = null; });
