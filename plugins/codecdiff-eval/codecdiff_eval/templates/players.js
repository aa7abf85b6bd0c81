for (const figure of document.querySelectorAll('.player')) {
  const audio = figure.querySelector('audio'), picture = figure.querySelector('.spectrogram');
  const move = () => {
    figure.style.setProperty('--at', audio.currentTime / (audio.duration || 1));
    if (!audio.paused) requestAnimationFrame(move);
  };
  audio.addEventListener('play', () => {
    document.querySelectorAll('audio').forEach(other => other !== audio && other.pause());
    figure.classList.add('playing');
    move();
  });
  audio.addEventListener('seeked', move);
  picture.addEventListener('click', event => {
    audio.currentTime = audio.duration * event.offsetX / picture.clientWidth || 0;
    audio.play().catch(() => {}); // a pause that follows at once is not an error
  });
}
