// Source code that a notebook shows links to its file beside the notebooks; the website has no such files.
document.addEventListener("DOMContentLoaded", () => {
  for (const link of document.querySelectorAll('a[href^="../dspark_lab/"]'))
    link.href = "https://github.com/dspark-lab/dspark-lab/blob/HEAD/" + link.getAttribute("href").slice("../".length);
});
