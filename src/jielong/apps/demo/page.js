// A player animates traces of generation. All items are shown at the same step, one of them enlarged beside its token map.
(() => {
  "use strict";
  const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const hue = (token, discrete) => (discrete ? (token * 137.508) % 360 : 140 - 48 * Math.max(-2.5, Math.min(2.5, token)));

  function cells(grid, count) {
    grid.replaceChildren(...Array.from({ length: count }, () => document.createElement("i")));
    return [...grid.children];
  }

  function player(root) {
    const data = JSON.parse(root.querySelector("script").textContent);
    const { items, step_count: last, size, columns, spatial, discrete } = data;
    const [rows, cols] = data.grid;
    const map = root.querySelector(".map"), over = root.querySelector(".over");
    const mapCells = map ? cells(map, rows * cols) : [], marks = cells(over, rows * cols);
    const button = root.querySelector(".play"), slider = root.querySelector("input"), status = root.querySelector("output");
    const large = root.querySelector(".stage canvas");
    const thumbs = [...root.querySelectorAll(".reel button")];
    const films = items.map(item => Object.assign(new Image(), { src: item.frames }));
    let step = last, chosen = 0, timer = 0;

    function paint(canvas, index) {
      const pen = canvas.getContext("2d"), high = size[0] / rows, wide = size[1] / cols, frame = step - 1;
      canvas.height = size[0];
      canvas.width = size[1];
      if (step > 0) pen.drawImage(films[index], (frame % columns) * size[1], Math.floor(frame / columns) * size[0], size[1], size[0], 0, 0, size[1], size[0]);
      pen.fillStyle = getComputedStyle(root).getPropertyValue("--veil");
      items[index].steps.forEach((sampled, place) => {
        if (spatial && sampled > step) pen.fillRect((place % cols) * wide, Math.floor(place / cols) * high, wide, high);
      });
    }

    function show() {
      const item = items[chosen];
      let known = 0, fresh = 0;
      item.codes.forEach((code, place) => {
        const sampled = item.steps[place], state = sampled > step ? "unknown" : sampled === step && sampled > 0 ? "new" : "";
        known += sampled <= step;
        fresh += state === "new";
        if (map) {
          mapCells[place].className = state;
          mapCells[place].style.setProperty("--h", hue(code, discrete));
          mapCells[place].textContent = code;
        }
        marks[place].className = spatial && state === "new" ? "new" : "";
      });
      paint(large, chosen);
      thumbs.forEach((thumb, index) => {
        paint(thumb.querySelector("canvas"), index);
        thumb.setAttribute("aria-pressed", index === chosen);
      });
      slider.value = step;
      const count = ` · ${known} of ${item.codes.length} tokens` + (fresh ? `, ${fresh} new` : "");
      status.textContent = `step ${step} of ${last}` + (map ? count : "");
    }

    function stop() {
      clearInterval(timer);
      timer = 0;
      button.textContent = "Play";
    }

    function play() {
      if (step >= last) step = 0;
      button.textContent = "Pause";
      timer = setInterval(() => {
        step += 1;
        show();
        if (step >= last) stop();
      }, Math.max(90, Math.min(700, 6000 / last)));
      show();
    }

    button.addEventListener("click", () => (timer ? stop() : play()));
    slider.addEventListener("input", () => {
      stop();
      step = Number(slider.value);
      show();
    });
    thumbs.forEach((thumb, index) => thumb.addEventListener("click", () => {
      chosen = index;
      show();
    }));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);

    Promise.all(films.map(film => film.decode().catch(() => undefined))).then(() => {
      const wanted = new URLSearchParams(location.search).get("step");
      if (wanted !== null) step = Math.min(last, Number(wanted));
      show();
      if (reducedMotion || wanted !== null || !("IntersectionObserver" in window)) return;
      const once = new IntersectionObserver(entries => {
        if (entries.some(entry => entry.isIntersecting)) {
          once.disconnect();
          if (!timer) play();
        }
      }, { threshold: 0.6 });
      once.observe(root.querySelector(".stage"));
    });
  }

  // A clip with sound: the frame of the moment that is heard.
  function talking(root) {
    const canvas = root.querySelector("canvas"), sound = root.querySelector("audio"), pen = canvas.getContext("2d");
    const count = Number(root.dataset.count), rate = Number(root.dataset.rate);
    const film = Object.assign(new Image(), { src: root.dataset.frames });
    function paint() {
      const frame = Math.min(count - 1, Math.floor(sound.currentTime * rate + 1e-6));
      pen.drawImage(film, frame * canvas.width, 0, canvas.width, canvas.height, 0, 0, canvas.width, canvas.height);
      if (!sound.paused && !sound.ended) requestAnimationFrame(paint);
    }
    film.decode().then(paint);
    ["play", "seeked", "ended", "pause"].forEach(event => sound.addEventListener(event, paint));
    canvas.addEventListener("click", () => (sound.paused ? sound.play() : sound.pause()));
  }

  document.querySelectorAll(".player").forEach(player);
  document.querySelectorAll(".talking").forEach(talking);
})();
