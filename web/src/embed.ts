/**
 * `<shoal-volunteer run="ID"></shoal-volunteer>`: a frame of the relay's own origin on a partner's page.
 *
 * This script draws the frame and nothing else. It cannot start training, and offers the partner's page
 * no way to: the start click lives inside the frame, on another origin. It reads nothing and stores nothing.
 */

const ORIGIN = new URL(import.meta.url).origin;

class ShoalVolunteer extends HTMLElement {
  static readonly observedAttributes = ['run'];
  readonly #root = this.attachShadow({ mode: 'closed' });

  connectedCallback(): void {
    this.#draw();
  }

  attributeChangedCallback(): void {
    if (this.isConnected) this.#draw();
  }

  #draw(): void {
    const frame = document.createElement('iframe');
    frame.src = `${ORIGIN}/embed.html?run=${encodeURIComponent(this.getAttribute('run') ?? '')}`;
    frame.title = 'Shoal: help train a model with this browser';
    // What it opens is the relay's full page, which is isolated: a browser refuses to show such a page inside a sandbox.
    frame.setAttribute(
      'sandbox',
      'allow-scripts allow-same-origin allow-popups allow-popups-to-escape-sandbox',
    );
    frame.referrerPolicy = 'origin';
    frame.loading = 'lazy';
    // A fixed size, so that nothing on the partner's page moves when the frame arrives.
    frame.width = '340';
    frame.height = '240';
    Object.assign(frame.style, { border: '0', display: 'block', maxWidth: '100%', colorScheme: 'normal' });
    this.#root.replaceChildren(frame);
  }
}

if (!customElements.get('shoal-volunteer')) customElements.define('shoal-volunteer', ShoalVolunteer);
