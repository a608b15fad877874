// A player shows how pictures came to be. All of a player's pictures stand at the same step; one of them is shown large.
(() => {
  "use strict";
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const hue = (token, discrete) => (discrete ? (token * 137.508) % 360 : 140 - 48 * Math.max(-2.5, Math.min(2.5, token)));

  function cells(board, count) {
    board.replaceChildren(...Array.from({ length: count }, () => document.createElement("i")));
    return [...board.children];
  }

  function player(root) {
    const data = JSON.parse(root.querySelector("script").textContent);
    const { stories, steps, size, columns, placed, discrete } = data;
    const [rows, cols] = data.grid;
    const board = root.querySelector(".board"), over = root.querySelector(".over");
    const map = board ? cells(board, rows * cols) : [], marks = cells(over, rows * cols);
    const button = root.querySelector(".play"), slider = root.querySelector("input"), says = root.querySelector("output");
    const large = root.querySelector(".stage canvas");
    const thumbs = [...root.querySelectorAll(".reel button")];
    const films = stories.map(story => Object.assign(new Image(), { src: story.film }));
    let step = steps, chosen = 0, timer = 0;

    function paint(canvas, index) {
      const pen = canvas.getContext("2d"), high = size[0] / rows, wide = size[1] / cols, frame = step - 1;
      canvas.height = size[0];
      canvas.width = size[1];
      if (step > 0) pen.drawImage(films[index], (frame % columns) * size[1], Math.floor(frame / columns) * size[0], size[1], size[0], 0, 0, size[1], size[0]);
      pen.fillStyle = getComputedStyle(root).getPropertyValue("--veil");
      stories[index].born.forEach((born, place) => {
        if (placed && born > step) pen.fillRect((place % cols) * wide, Math.floor(place / cols) * high, wide, high);
      });
    }

    function show() {
      const story = stories[chosen];
      let known = 0, fresh = 0;
      story.codes.forEach((code, place) => {
        const born = story.born[place], state = born > step ? "unknown" : born === step && born > 0 ? "new" : "";
        known += born <= step;
        fresh += state === "new";
        if (board) {
          map[place].className = state;
          map[place].style.setProperty("--h", hue(code, discrete));
          map[place].textContent = code;
        }
        marks[place].className = placed && state === "new" ? "new" : "";
      });
      paint(large, chosen);
      thumbs.forEach((thumb, index) => {
        paint(thumb.querySelector("canvas"), index);
        thumb.setAttribute("aria-pressed", index === chosen);
      });
      slider.value = step;
      const count = ` · ${known} of ${story.codes.length} tokens` + (fresh ? `, ${fresh} new` : "");
      says.textContent = `step ${step} of ${steps}` + (board ? count : "");
    }

    function stop() {
      clearInterval(timer);
      timer = 0;
      button.textContent = "Play";
    }

    function play() {
      if (step >= steps) step = 0;
      button.textContent = "Pause";
      timer = setInterval(() => {
        step += 1;
        show();
        if (step >= steps) stop();
      }, Math.max(90, Math.min(700, 6000 / steps)));
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
      if (wanted !== null) step = Math.min(steps, Number(wanted));
      show();
      if (calm || wanted !== null || !("IntersectionObserver" in window)) return;
      const once = new IntersectionObserver(entries => {
        if (entries.some(entry => entry.isIntersecting)) {
          once.disconnect();
          if (!timer) play();
        }
      }, { threshold: 0.6 });
      once.observe(root.querySelector(".stage"));
    });
  }

  document.querySelectorAll(".player").forEach(player);
})();
