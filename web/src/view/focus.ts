/** Keeps the keyboard's place when a drawing replaces the control that has it. */

const SUCCESSORS = '[data-testid=pause], [data-testid=resume], [data-testid=start]';

/** Draws; where that took the focused control away, its successor has the focus, not the page's beginning. */
export function keepingFocus(root: HTMLElement, draw: () => void): void {
  const focused = root.contains(document.activeElement) ? document.activeElement : null;
  draw();
  if (focused && !focused.isConnected) root.querySelector<HTMLElement>(SUCCESSORS)?.focus();
}
