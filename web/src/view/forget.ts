/** The button that deletes what this browser keeps, and the question before it. */

import { html, type TemplateResult } from 'lit';
import type { Volunteer } from '../volunteer';

export function forgetMe(volunteer: Volunteer): TemplateResult {
  const dialog = () => document.getElementById('forget') as HTMLDialogElement;
  const forget = () => {
    dialog().close();
    void volunteer.forget();
  };
  // Buttons and no form: nothing here is for the page's address.
  return html`<button class="quiet" data-testid="forget" @click=${() => dialog().showModal()}>Forget me</button>
    <dialog id="forget" aria-labelledby="forget-title" aria-describedby="forget-text">
      <h2 id="forget-title">Forget you in this browser?</h2>
      <p class="question" id="forget-text">
        This deletes your keys, models and settings of all runs on this site. It cannot be undone: next time you take part
        as somebody else. What you contributed stays in the models and in the runs’ public records.
      </p>
      <div class="buttons">
        <button autofocus data-testid="forget-cancel" @click=${() => dialog().close()}>Keep everything</button>
        <button data-testid="forget-confirm" @click=${forget}>Delete and forget me</button>
      </div>
    </dialog>`;
}
